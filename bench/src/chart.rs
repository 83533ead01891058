//! What the plots have in common: colours, and numbers on an axis.

use plotters::coord::CoordTranslate;
use plotters::prelude::*;

/// Dark enough on white, and told apart by the colour-blind (Okabe and Ito).
pub const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// A number on an axis or in a table: thousands with commas, fractions as they are.
pub fn label(number: &f64) -> String {
    if *number < 1.0 {
        return format!("{number}");
    }
    let digits = format!("{number:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap_or("")).collect();
    groups.join(",")
}

/// Names the lines, in the upper left corner.
///
/// # Errors
/// What drawing says.
pub fn legend<'a, DB: DrawingBackend + 'a, CT: CoordTranslate>(
    chart: &mut ChartContext<'a, DB, CT>,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.9))
        .border_style(RGBColor(200, 200, 200))
        .draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_commas() {
        assert_eq!(
            (label(&0.01), label(&1.0), label(&1_000_000.0)),
            ("0.01".into(), "1".into(), "1,000,000".into())
        );
    }
}
