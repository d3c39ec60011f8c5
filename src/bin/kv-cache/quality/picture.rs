//! Charts of the formats' errors, in the terminal and as SVG.

use plotters::prelude::*;

use super::Quality;

/// Marks of a bar per factor of ten above [`LEAST`].
const MARKS: f64 = 16.0;
/// Error at which a bar has length zero.
const LEAST: f64 = 1e-4;
const KEYS: RGBColor = RGBColor(0x25, 0x63, 0xeb);
const VALUES: RGBColor = RGBColor(0x05, 0x96, 0x69);
const ATTENTION: RGBColor = RGBColor(0xd9, 0x77, 0x06);
const INK: RGBColor = RGBColor(0x37, 0x41, 0x51);
const MESH: RGBColor = RGBColor(0xe5, 0xe7, 0xeb);

/// Returns the errors that a row has, with their names and colors.
fn errors(row: &Quality) -> impl Iterator<Item = (&'static str, RGBColor, f64)> {
    [("keys", KEYS, Some(row.keys)), ("values", VALUES, Some(row.values)), ("attention", ATTENTION, row.attention)]
        .into_iter()
        .filter_map(|(name, color, error)| Some((name, color, error?)))
}

/// Returns the errors that fit a logarithmic scale. A format that cannot represent a number of the trace has infinite
/// errors.
fn drawable(row: &Quality) -> impl Iterator<Item = (&'static str, RGBColor, f64)> {
    errors(row).filter(|(_, _, error)| *error > 0.0 && error.is_finite())
}

/// Draws a bar for each error, on a logarithmic scale.
pub fn text(rows: &[Quality]) -> String {
    let mut text = String::new();
    for row in rows {
        for (index, (name, _, error)) in errors(row).enumerate() {
            let label = if index == 0 { row.name.as_str() } else { "" };
            let bar = if error.is_finite() { (error / LEAST).max(1.0).log10() * MARKS } else { 0.0 };
            let marks = bar.round() as usize;
            let number = if error == 0.0 { "0".to_owned() } else { format!("{error:.1e}") };
            text.push_str(&format!("  {label:<18}{name:<10}{} {number}\n", "█".repeat(marks)));
        }
    }
    text
}

/// Returns half the least drawable error, and the largest.
fn bounds(rows: &[Quality]) -> (f64, f64) {
    let all = || rows.iter().flat_map(drawable).map(|(_, _, error)| error);
    let low = all().fold(f64::INFINITY, f64::min);
    let high = all().fold(0.0, f64::max);
    if high > 0.0 { (low / 2.0, high) } else { (1e-9, 1e-8) }
}

/// Plots errors over bits per element. Points closer to the origin are better.
pub fn svg(rows: &[Quality]) -> String {
    let mut text = String::new();
    let drawn = draw(rows, &mut text);
    drawn.expect("a String takes every write");
    text
}

fn draw(rows: &[Quality], text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(text, (760, 460)).into_drawing_area();
    area.fill(&WHITE)?;
    let (low, high) = bounds(rows);
    let widest = rows.iter().map(|row| row.bits_per_element).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .caption("What each format loses", ("sans-serif", 20).into_font().color(&INK))
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d((4f64..widest * 1.5).log_scale().base(2.0), (low..high * 4.0).log_scale())?;
    chart
        .configure_mesh()
        .bold_line_style(MESH)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style(("sans-serif", 15).into_font().color(&INK))
        .x_desc("bits per element")
        .y_desc("relative RMS error")
        .x_label_formatter(&|bits| format!("{bits:.0}"))
        .y_label_formatter(&|error| format!("{error:.0e}"))
        .draw()?;
    for (name, color) in [("keys", KEYS), ("values", VALUES), ("attention", ATTENTION)] {
        let points = rows.iter().flat_map(|row| {
            drawable(row).filter(|(of, _, _)| *of == name).map(|(_, _, error)| (row.bits_per_element, error))
        });
        chart
            .draw_series(points.map(|point| Circle::new(point, 4, color.filled())))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, color.filled()));
    }
    // Each name is drawn above the row's highest point. Names of neighbours are stacked.
    for (index, row) in rows.iter().enumerate() {
        let top = drawable(row).map(|(_, _, error)| error).fold(0.0, f64::max);
        if top > 0.0 {
            let near = |other: &&Quality| (other.bits_per_element / row.bits_per_element).ln().abs() < 0.15;
            let before = rows[..index].iter().filter(near).count();
            let above = -20 - 16 * i32::try_from(before).unwrap_or(0);
            let font = ("sans-serif", 14).into_font().color(&INK);
            let name = EmptyElement::at((row.bits_per_element, top)) + Text::new(row.name.clone(), (6, above), font);
            chart.draw_series([name])?;
        }
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.9))
        .border_style(MESH)
        .label_font(("sans-serif", 15).into_font().color(&INK))
        .draw()?;
    area.present()?;
    Ok(())
}
