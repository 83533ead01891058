//! The points as a picture: a lookup's CPU time against the length of chains, both logarithmic.
//!
//! One panel for each number of partitions, one line for each number of connections; a ring around the default.

use plotters::prelude::*;

use super::report::Point;
use crate::chart::{COLOURS, label, legend};

/// Pixels of a panel.
const PANEL: (u32, u32) = (520, 460);
/// Draws all points.
///
/// # Errors
/// There is none to draw.
pub fn draw(points: &[Point]) -> Result<String, String> {
    let mut partitions: Vec<u32> = points.iter().map(|point| point.partitions).collect();
    partitions.dedup();
    let bounds = Bounds::of(points).ok_or("there is no point to draw")?;
    let mut svg = String::new();
    {
        let size = (PANEL.0 * partitions.len() as u32, PANEL.1);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE).map_err(|error| error.to_string())?;
        for (panel, partitions) in area.split_evenly((1, partitions.len())).iter().zip(partitions) {
            let points: Vec<&Point> = points.iter().filter(|point| point.partitions == partitions).collect();
            draw_panel(panel, partitions, &points, &bounds).map_err(|error| error.to_string())?;
        }
        area.present().map_err(|error| error.to_string())?;
    }
    Ok(svg)
}

/// What the axes span, the same in all panels.
struct Bounds {
    load_factor: (f64, f64),
    cpu_ns: (f64, f64),
}

impl Bounds {
    /// A little more than all points. `None` if there is none.
    fn of(points: &[Point]) -> Option<Bounds> {
        let span = |of: fn(&Point) -> f64| {
            let least = points.iter().map(of).min_by(f64::total_cmp)?;
            let most = points.iter().map(of).max_by(f64::total_cmp)?;
            Some((least / 1.5, most * 1.5))
        };
        Some(Bounds { load_factor: span(|point| point.load_factor)?, cpu_ns: span(|point| point.cpu_ns)? })
    }
}

type Panel<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_panel(
    panel: &Panel<'_>,
    partitions: u32,
    points: &[&Point],
    bounds: &Bounds,
) -> Result<(), Box<dyn std::error::Error>> {
    let plural = if partitions == 1 { "" } else { "s" };
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("{partitions} partition{plural}, 2 threads"), ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
            (bounds.load_factor.0..bounds.load_factor.1).log_scale(),
            (bounds.cpu_ns.0..bounds.cpu_ns.1).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(RGBColor(242, 242, 242))
        .bold_line_style(RGBColor(220, 220, 220))
        .x_desc("TCBs per bucket (mean chain length)")
        .y_desc("CPU time of a lookup, ns")
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .draw()?;
    let mut sizes: Vec<u32> = points.iter().map(|point| point.tcbs).collect();
    sizes.dedup();
    // The largest first, as its line is the topmost.
    for (n, tcbs) in sizes.into_iter().enumerate().rev() {
        let colour = COLOURS[n % COLOURS.len()];
        let line = || points.iter().filter(move |point| point.tcbs == tcbs);
        let at = |point: &&&Point| (point.load_factor, point.cpu_ns);
        chart
            .draw_series(LineSeries::new(line().map(|point| at(&point)), colour.stroke_width(2)))?
            .label(format!("{} TCBs", label(&f64::from(tcbs))))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(line().map(|point| Circle::new(at(&point), 3, colour.filled())))?;
        let defaults = line().filter(|point| point.is_default);
        chart.draw_series(defaults.map(|point| Circle::new(at(&point), 7, BLACK.stroke_width(1))))?;
    }
    legend(&mut chart)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(tcbs: u32, partitions: u32, is_default: bool) -> Point {
        Point {
            tcbs,
            buckets: 512,
            partitions,
            is_default,
            load_factor: f64::from(tcbs) / 512.0,
            mean_probes: 1.0,
            longest_chain: 1,
            cpu_ns: 100.0,
            wall_ns: 100.0,
        }
    }

    #[test]
    fn every_panel_and_every_line_is_there() {
        let points = [point(1_000, 1, true), point(50_000, 1, false), point(1_000, 8, false)];
        let svg = draw(&points).unwrap();
        for text in ["1 partition, 2 threads", "8 partitions, 2 threads", "1,000 TCBs", "50,000 TCBs"] {
            assert!(svg.contains(text), "no {text:?}");
        }
        // Three points, and a ring around the one default.
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(draw(&[]).is_err());
    }
}
