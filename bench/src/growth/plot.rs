//! Two panels over the number of connections: bytes for each, and server CPU for each delivery.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::report::{Kind, Report, Row};
use crate::chart::{COLOURS, label, legend};

/// Pixels of a panel.
const PANEL: (u32, u32) = (520, 400);

/// One line: its name, and what it shows by size.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Draws all rows.
///
/// # Errors
/// There is nothing to draw.
pub fn draw(report: &Report) -> Result<String, String> {
    let line = |name: &str, kind: Kind, number: &dyn Fn(&Row) -> Option<f64>| {
        let rows = report.rows.iter().filter(|row| row.kind == kind);
        let points = rows.filter_map(|row| Some((f64::from(row.connections), number(row)?))).collect();
        Line { name: name.to_owned(), points }
    };
    let cpu = |row: &Row| row.median(|numbers| Some(numbers.cpu_us_per_delivery));
    let base = label(&f64::from(report.base));
    let bytes = [
        line("server, user", Kind::Planned, &|row| row.median(|numbers| numbers.user_bytes)),
        line("kernel, per end", Kind::Planned, &|row| row.median(|numbers| numbers.kernel_bytes_per_end)),
    ];
    let mut larger = line("all connections, larger table in the kernel", Kind::LargerTable, &cpu);
    // One point is no line: the base has the table of the largest size here.
    let same = report.rows.iter().rev().find(|row| row.kind == Kind::SameTable).and_then(cpu);
    larger.points.extend(same.map(|us| (f64::from(report.base), us)));
    larger.points.sort_by(|one, other| one.0.total_cmp(&other.0));
    let costs = [
        line("all connections", Kind::Planned, &cpu),
        line(&format!("{base} connections, as many threads"), Kind::SameThreads, &cpu),
        line(&format!("{base} connections, as many threads of clients"), Kind::SameClients, &cpu),
        larger,
    ];
    let sizes = || report.rows.iter().map(|row| f64::from(row.connections));
    let least = sizes().reduce(f64::min).ok_or("there is no point to draw")?;
    let most = sizes().reduce(f64::max).ok_or("there is no point to draw")?;
    let over = (least / 1.5, most * 1.5);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (PANEL.0 * 2, PANEL.1)).into_drawing_area();
        area.fill(&WHITE).map_err(|error| error.to_string())?;
        let (left, right) = area.split_horizontally(PANEL.0);
        draw_panel(&left, "bytes per connection", over, &bytes).map_err(|error| error.to_string())?;
        draw_panel(&right, "server CPU per delivery, us", over, &costs).map_err(|error| error.to_string())?;
        area.present().map_err(|error| error.to_string())?;
    }
    Ok(svg)
}

fn draw_panel(
    panel: &DrawingArea<SVGBackend<'_>, Shift>,
    what: &str,
    over: (f64, f64),
    lines: &[Line],
) -> Result<(), Box<dyn std::error::Error>> {
    let highest = lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(panel)
        .caption(what, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        // From zero, so that heights can be compared; above the highest is room for the legend.
        .build_cartesian_2d((over.0..over.1).log_scale(), 0.0..(highest * 1.4).max(1.0))?;
    chart
        .configure_mesh()
        .light_line_style(RGBColor(242, 242, 242))
        .bold_line_style(RGBColor(220, 220, 220))
        .x_desc("connections")
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS).filter(|(line, _)| !line.points.is_empty()) {
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
    }
    legend(&mut chart)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn every_measured_point_is_there() {
        let svg = draw(&report()).unwrap();
        for text in
            ["server, user", "all connections, larger table", "10,000 connections, as many threads of"]
        {
            assert!(svg.contains(text), "no {text:?}");
        }
        // User bytes and CPU of three sizes, CPU of the base twice, and two with a larger table; the kernel's bytes were not
        // read.
        assert_eq!(svg.matches("<circle").count(), 10);
        assert!(!svg.contains("kernel, per end"));
        assert!(draw(&Report::new(1, 100, 1, 1)).is_err());
    }
}
