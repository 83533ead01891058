//! Plots as SVG text: axes with round numbers, lines, bars, stacked bars.
//!
//! Colours and fonts come from the page's style sheet (`class` attributes), so that one plot serves light and
//! dark pages. Pure: numbers in, text out.
//!
//! Invariant: all text from outside is escaped.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 44.0;

/// Ticks of an axis, about.
const TICKS: f64 = 6.0;

/// One curve or set of bars.
pub struct Series<'a> {
    /// What it is, for the legend.
    pub name: &'a str,
    /// Its points, by x.
    pub points: Vec<(f64, f64)>,
}

/// Escapes text for HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number with a unit prefix: 1500 is `1.5k`.
pub fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = if scaled == scaled.round() {
        0
    } else if scaled.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$}{unit}")
}

/// Curves over a common x axis that starts at 0.
pub fn lines(series: &[Series<'_>], x_name: &str, y_name: &str) -> String {
    let all = || series.iter().flat_map(|one| &one.points);
    let x = Axis::up_to(all().map(|point| point.0).fold(0.0, f64::max));
    let y = Axis::up_to(all().map(|point| point.1).fold(0.0, f64::max));
    let mut plot = Plot::new(&x, &y, x_name, y_name);
    for (n, one) in series.iter().enumerate() {
        let path: Vec<String> = one
            .points
            .iter()
            .map(|(px, py)| format!("{:.1},{:.1}", x.place_x(*px), y.place_y(*py)))
            .collect();
        plot.add(&format!("<polyline class=\"line c{n}\" points=\"{}\"/>", path.join(" ")));
    }
    plot.legend(&series.iter().map(|one| one.name).collect::<Vec<_>>());
    plot.finish()
}

/// Bars between edges on a logarithmic x axis (milliseconds); the marks are vertical lines with names.
pub fn histogram(bars: &[(f64, f64, u64)], marks: &[(&str, f64)], x_name: &str, y_name: &str) -> String {
    if bars.is_empty() {
        return open(HEIGHT) + "</svg>";
    }
    let low = bars.iter().map(|bar| bar.0).fold(f64::INFINITY, f64::min).log10().floor();
    let high = bars.iter().map(|bar| bar.1).fold(0.0, f64::max).log10().ceil();
    let x = Axis { min: low, max: high.max(low + 1.0), step: 1.0, logarithmic: true };
    let y = Axis::up_to(bars.iter().map(|bar| bar.2).max().unwrap_or(0) as f64);
    let mut plot = Plot::new(&x, &y, x_name, y_name);
    for (from, to, count) in bars {
        let (left, right) = (x.place_x(from.log10()), x.place_x(to.log10()));
        let top = y.place_y(*count as f64);
        plot.add(&format!(
            "<rect class=\"bar c0\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\">\
             <title>{from:.3} to {to:.3}: {count}</title></rect>",
            (right - left - 1.0).max(1.0),
            HEIGHT - BOTTOM - top
        ));
    }
    for (n, (name, at)) in marks.iter().filter(|mark| mark.1 > 0.0).enumerate() {
        let place = x.place_x(at.log10());
        // On the side of the line where it has room.
        let (class, gap) = if place > WIDTH - RIGHT - 100.0 { ("note end", -4.0) } else { ("note", 4.0) };
        plot.add(&format!(
            "<line class=\"mark\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            HEIGHT - BOTTOM,
            place + gap,
            TOP + 12.0 + 14.0 * n as f64,
            escape(name)
        ));
    }
    plot.finish()
}

/// Horizontal stacked bars, one row each: name, and its parts with their names.
pub fn stacked(rows: &[(&str, Vec<(&str, f64)>)], unit: &str) -> String {
    let total = |parts: &[(&str, f64)]| parts.iter().map(|part| part.1.max(0.0)).sum::<f64>();
    let max = rows.iter().map(|row| total(&row.1)).fold(1.0, f64::max);
    let (bar, gap, left) = (34.0, 46.0, 150.0);
    let height = TOP + rows.len() as f64 * (bar + gap);
    let mut svg = open(height);
    for (n, (name, parts)) in rows.iter().enumerate() {
        let top = TOP + n as f64 * (bar + gap);
        push(
            &mut svg,
            &format!(
                "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left - 10.0,
                top + bar / 2.0 + 4.0,
                escape(name)
            ),
        );
        let mut at = left;
        let mut note_at = left;
        for (c, (part, value)) in parts.iter().enumerate() {
            let width = value.max(0.0) / max * (WIDTH - left - RIGHT);
            let label = format!("{part} {value:.0} {unit}");
            push(
                &mut svg,
                &format!(
                    "<rect class=\"bar c{c}\" x=\"{at:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{bar}\"/>\
                 <rect class=\"bar c{c}\" x=\"{note_at:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\"/>\
                 <text class=\"note\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    width.max(1.0),
                    top + bar + 7.0,
                    note_at + 13.0,
                    top + bar + 16.0,
                    escape(&label)
                ),
            );
            at += width;
            note_at += 7.0 * label.len() as f64 + 28.0;
        }
    }
    svg + "</svg>"
}

/// Horizontal bars with a name and a number each.
pub fn bars(rows: &[(&str, f64)]) -> String {
    let max = rows.iter().map(|row| row.1).fold(1.0, f64::max);
    let (bar, left) = (24.0, 200.0);
    let mut svg = open(TOP + rows.len() as f64 * (bar + 8.0));
    for (n, (name, value)) in rows.iter().enumerate() {
        let top = TOP + n as f64 * (bar + 8.0);
        let width = value / max * (WIDTH - left - 90.0);
        push(
            &mut svg,
            &format!(
                "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <rect class=\"bar c3\" x=\"{left}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{bar}\"/>\
             <text class=\"note\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left - 10.0,
                top + bar / 2.0 + 4.0,
                escape(name),
                width.max(1.0),
                left + width + 8.0,
                top + bar / 2.0 + 4.0,
                value
            ),
        );
    }
    svg + "</svg>"
}

/// One axis: its range and the distance of its ticks.
struct Axis {
    min: f64,
    max: f64,
    step: f64,
    /// Values are powers of ten.
    logarithmic: bool,
}

impl Axis {
    /// From 0 to a round number that is not below `max`.
    fn up_to(max: f64) -> Self {
        let max = if max > 0.0 { max } else { 1.0 };
        let rough = max / TICKS;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * power);
        Self { min: 0.0, max: (max / step).ceil() * step, step, logarithmic: false }
    }

    fn part(&self, value: f64) -> f64 {
        ((value - self.min) / (self.max - self.min)).clamp(0.0, 1.0)
    }

    fn place_x(&self, value: f64) -> f64 {
        LEFT + self.part(value) * (WIDTH - LEFT - RIGHT)
    }

    fn place_y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.part(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn ticks(&self) -> impl Iterator<Item = (f64, String)> + '_ {
        let count = ((self.max - self.min) / self.step).round() as u32;
        (0..=count).map(|n| {
            let value = self.min + f64::from(n) * self.step;
            (value, if self.logarithmic { short(10f64.powf(value)) } else { short(value) })
        })
    }
}

/// A plot with both axes drawn.
struct Plot {
    svg: String,
}

impl Plot {
    fn new(x: &Axis, y: &Axis, x_name: &str, y_name: &str) -> Self {
        let mut plot = Self { svg: open(HEIGHT) };
        for (value, text) in y.ticks() {
            let place = y.place_y(value);
            plot.add(&format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{place:.1}\" y2=\"{place:.1}\"/>\
                 <text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                place + 4.0
            ));
        }
        for (value, text) in x.ticks() {
            let place = x.place_x(value);
            plot.add(&format!(
                "<text class=\"tick middle\" x=\"{place:.1}\" y=\"{:.1}\">{text}</text>",
                HEIGHT - BOTTOM + 18.0
            ));
        }
        plot.add(&format!(
            "<text class=\"axis middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"axis middle\" transform=\"translate(14 {:.1}) rotate(-90)\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 6.0,
            escape(x_name),
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escape(y_name)
        ));
        plot
    }

    fn add(&mut self, element: &str) {
        push(&mut self.svg, element);
    }

    fn legend(&mut self, names: &[&str]) {
        let mut at = LEFT + 12.0;
        for (n, name) in names.iter().enumerate() {
            self.add(&format!(
                "<rect class=\"bar c{n}\" x=\"{at:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\"/>\
                 <text class=\"note\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                TOP + 4.0,
                at + 17.0,
                TOP + 14.0,
                escape(name)
            ));
            at += 34.0 + 7.5 * name.len() as f64;
        }
    }

    fn finish(self) -> String {
        self.svg + "</svg>"
    }
}

fn open(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">")
}

fn push(svg: &mut String, element: &str) {
    // Writing to a String cannot fail.
    writeln!(svg, "{element}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_above_the_data() {
        for (max, end, step) in [(50_000.0, 50_000.0, 10_000.0), (7.3, 8.0, 2.0), (0.0, 1.0, 0.2)] {
            let axis = Axis::up_to(max);
            assert!((axis.max - end).abs() < 1e-9 && (axis.step - step).abs() < 1e-9, "{max}: {}", axis.max);
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(50_000.0), "50k");
        assert_eq!(short(0.25), "0.25");
        assert_eq!(short(1_500_000.0), "1.50M");
        assert_eq!(short(12_345.0), "12.3k");
    }

    #[test]
    fn plots_are_well_formed_and_escaped() {
        let lines = lines(&[Series { name: "<a>", points: vec![(0.0, 0.0), (1.0, 5.0)] }], "x & y", "y");
        assert!(lines.contains("&lt;a&gt;") && lines.contains("x &amp; y") && !lines.contains("<a>"));
        let plots = [
            lines,
            histogram(&[(0.1, 0.2, 5), (1.0, 2.0, 7)], &[("p50", 0.15), ("p0", 0.0)], "ms", "n"),
            stacked(&[("held", vec![("user", 200.0), ("kernel", 4200.0)])], "B"),
            bars(&[("reset", 3.0)]),
            histogram(&[], &[], "ms", "n"),
        ];
        for plot in plots {
            assert!(plot.starts_with("<svg") && plot.ends_with("</svg>"));
            assert!(!plot.contains("NaN") && !plot.contains("inf"), "{plot}");
            assert_eq!(plot.matches("<text").count(), plot.matches("</text>").count());
        }
    }
}
