//! The ratios to the floor as an SVG: one group of bars for each workload, one bar for each server.
//!
//! Invariant: all text is of this program's own making; nothing needs escaping.

use super::report::{Report, Row};

const WIDTH: f64 = 920.0;
const LEFT: f64 = 250.0;
const RIGHT: f64 = 120.0;
const BAR: f64 = 14.0;
const GAP: f64 = 14.0;
const TOP: f64 = 46.0;
/// Bars longer than this many floors are cut; their numbers are beside them.
const RATIO_MAX: f64 = 4.0;
const COLOURS: [&str; 6] = ["#c4c8ce", "#2a6fb0", "#d08a2e", "#8a8f98", "#b0559a", "#4f9d5b"];

/// Draws CPU per delivery and per cycle, and the 99th percentile.
pub fn ratios(report: &Report) -> String {
    let shown = |row: &&Row| {
        row.ratio.is_some()
            && ["server CPU per delivery", "server CPU per cycle", "delivery p99"].contains(&row.metric)
    };
    let rows: Vec<&Row> = report.rows.iter().filter(shown).collect();
    let scale = (WIDTH - LEFT - RIGHT) / RATIO_MAX;
    let (mut body, mut top, mut group) = (String::new(), TOP, ("", ""));
    for row in rows {
        if (row.workload, row.metric) != group {
            top += if group == ("", "") { 0.0 } else { GAP };
            group = (row.workload, row.metric);
            let what = row.metric.trim_start_matches("server ");
            let y = top + BAR - 3.0;
            body += &format!(
                "<text x=\"{:.0}\" y=\"{y:.0}\" text-anchor=\"end\">{} {what}</text>\n",
                LEFT - 8.0,
                row.workload
            );
        }
        let colour = report.servers.iter().position(|name| *name == row.server).unwrap_or(1).max(1) - 1;
        let ratio = row.ratio.unwrap_or_default();
        let long = ratio.min(RATIO_MAX) * scale;
        let most = row.ratio_spread.map_or(long, |(_, most)| most.min(RATIO_MAX) * scale);
        body += &format!(
            "<rect x=\"{LEFT}\" y=\"{top:.0}\" width=\"{long:.1}\" height=\"{:.0}\" fill=\"{}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.0}\">{ratio:.2}</text>\n",
            BAR - 2.0,
            COLOURS[colour % COLOURS.len()],
            LEFT + long.max(most) + 6.0,
            top + BAR - 3.0
        );
        if let Some((least, most)) = row.ratio_spread {
            let (from, to) = (LEFT + least.min(RATIO_MAX) * scale, LEFT + most.min(RATIO_MAX) * scale);
            let y = top + BAR / 2.0 - 1.0;
            body +=
                &format!("<path d=\"M{from:.1} {y:.0}H{to:.1}\" stroke=\"#101418\" stroke-width=\"2\"/>\n");
        }
        top += BAR;
    }
    let mut head = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"16\" font-size=\"13\">Times the floor; a line shows the spread of the rounds</text>\n",
        top + 12.0
    );
    for (n, name) in report.servers.iter().skip(1).enumerate() {
        let x = LEFT + 110.0 * n as f64;
        head += &format!(
            "<rect x=\"{x:.0}\" y=\"24\" width=\"10\" height=\"10\" fill=\"{}\"/>\
             <text x=\"{:.0}\" y=\"33\">{name}</text>\n",
            COLOURS[n % COLOURS.len()],
            x + 14.0
        );
    }
    let one = LEFT + scale;
    head + &body
        + &format!(
            "<path d=\"M{one:.1} {TOP}V{top:.0}\" stroke=\"#b02a2a\" stroke-dasharray=\"4 3\"/>\n</svg>\n"
        )
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_number_stands_behind_its_bar_and_its_spread() {
        let svg = ratios(&report());
        let scale = (WIDTH - LEFT - RIGHT) / RATIO_MAX;
        // The median of three rounds is 1.10, and the greatest of them 1.50.
        let x = LEFT + 1.5 * scale + 6.0;
        assert!(svg.contains(&format!("<text x=\"{x:.1}\"")) && svg.contains(">1.10</text>"), "{svg}");
    }
}
