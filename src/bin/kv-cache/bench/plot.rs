//! The plots of the report, as SVG.

use plotters::{coord::Shift, prelude::*};

use super::figure::{Chosen, Figure, Measured};

const SIZE: (u32, u32) = (600, 360);
const KERNEL: RGBColor = RGBColor(0x25, 0x63, 0xeb);
const COPIES: RGBColor = RGBColor(0x05, 0x96, 0x69);
const DEVICE: RGBColor = RGBColor(0x9c, 0xa3, 0xaf);
const INK: RGBColor = RGBColor(0x37, 0x41, 0x51);
const MESH: RGBColor = RGBColor(0xe5, 0xe7, 0xeb);

/// Colors of the series of a plot.
const COLORS: [RGBColor; 6] = [
    KERNEL,
    COPIES,
    RGBColor(0xd9, 0x77, 0x06),
    RGBColor(0xdc, 0x26, 0x26),
    RGBColor(0x7c, 0x3a, 0xed),
    RGBColor(0x0e, 0x74, 0x90),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Outcome = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// A series of a plot: its name, its color, and its times in a figure.
type Form = (&'static str, RGBColor, fn(&Figure) -> Option<Measured>);

const FORMS: [Form; 3] = [
    ("as kernels", KERNEL, |figure| Some(figure.kernel)),
    ("as copies", COPIES, |figure| figure.copies),
    ("the device's copy", DEVICE, |figure| Some(figure.device_copy)),
];

/// A line of a plot.
struct Line {
    name: String,
    color: RGBColor,
    dashed: bool,
    points: Vec<(f64, f64)>,
}

impl Line {
    fn new(name: &str, color: RGBColor, figures: &[&Figure], of: fn(&Figure) -> Option<Measured>) -> Self {
        let point = |figure: &&Figure| Some((f64::from(figure.amount), of(figure)?.gigabytes_per_second));
        let points = figures.iter().filter_map(point).collect();
        Line { name: name.to_owned(), color, dashed: color == DEVICE, points }
    }
}

/// Plots the bandwidth of each form over an amount, with a ring around the form that the model chooses.
pub fn bandwidth(figures: &[&Figure], amount: &str) -> String {
    let lines = FORMS.map(|(name, color, of)| Line::new(name, color, figures, of));
    let chosen = figures.iter().map(|figure| (f64::from(figure.amount), figure.chosen().gigabytes_per_second));
    lines_over(amount, &lines, &chosen.collect::<Vec<_>>())
}

/// Plots the bandwidth of the kernel over an amount, a line for each series, beside the device's copy for the first.
pub fn series(figures: &[&Figure], amount: &str) -> String {
    let mut names: Vec<&str> = figures.iter().map(|figure| &*figure.series).collect();
    names.dedup();
    let of = |name: &str| figures.iter().copied().filter(|figure| figure.series == name).collect::<Vec<_>>();
    let mut lines: Vec<Line> = names
        .iter()
        .zip(COLORS.into_iter().cycle())
        .map(|(name, color)| Line::new(name, color, &of(name), |figure| Some(figure.kernel)))
        .collect();
    let copy = Line::new("the device's copy", DEVICE, &of(names[0]), |figure| Some(figure.device_copy));
    lines.push(Line { name: format!("{}, {}", copy.name, names[0]), ..copy });
    lines_over(amount, &lines, &[])
}

/// Plots lines over an amount, both axes logarithmic.
fn lines_over(amount: &str, lines: &[Line], chosen: &[(f64, f64)]) -> String {
    draw(|area| {
        let points = || lines.iter().flat_map(|line| line.points.iter().copied()).filter(|point| point.1 > 0.0);
        let low = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
        let high = points().map(|point| point.1).fold(0.0, f64::max);
        let first = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
        let last = points().map(|point| point.0).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(70)
            .build_cartesian_2d((first..last * 1.02).log_scale().base(2.0), (low / 1.5..high * 1.8).log_scale())?;
        chart
            .configure_mesh()
            .bold_line_style(MESH)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .label_style(("sans-serif", 15).into_font().color(&INK))
            .x_desc(amount)
            .y_desc("GB/s")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y}"))
            .draw()?;
        for line in lines {
            let (color, points) = (line.color, line.points.clone());
            let legend = move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2));
            if line.dashed {
                let dashes = DashedLineSeries::new(points, 7, 4, color.stroke_width(2));
                chart.draw_series(dashes)?.label(&line.name).legend(legend);
                continue;
            }
            chart.draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?.label(&line.name).legend(legend);
            chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, color.filled())))?;
        }
        if !chosen.is_empty() {
            chart
                .draw_series(chosen.iter().map(|&point| Circle::new(point, 7, INK.stroke_width(1))))?
                .label("the cost model's choice")
                .legend(|(x, y)| Circle::new((x + 9, y), 6, INK.stroke_width(1)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .margin(14)
            .border_style(TRANSPARENT)
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 15).into_font().color(&INK))
            .draw()
    })
}

/// Draws a bar for each form of each figure, in milliseconds, with a mark over the form that the model chooses.
pub fn times(figures: &[&Figure]) -> String {
    draw(|area| {
        let milliseconds = |form: Measured| form.median_seconds * 1e3;
        let all = figures.iter().flat_map(|figure| FORMS.map(|(_, _, of)| of(figure).map(milliseconds)));
        let high = all.flatten().fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..figures.len() as f64, 0.0..high * 1.65)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .bold_line_style(MESH)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .label_style(("sans-serif", 15).into_font().color(&INK))
            .y_desc("ms")
            .draw()?;
        let font = ("sans-serif", 15).into_font().color(&INK);
        for (place, (name, color, of)) in FORMS.into_iter().enumerate() {
            let left = |index: usize| index as f64 + 0.14 + place as f64 * 0.24;
            let bars = figures.iter().enumerate().filter_map(|(index, figure)| {
                let corners = [(left(index), 0.0), (left(index) + 0.22, milliseconds(of(figure)?))];
                Some(Rectangle::new(corners, color.filled()))
            });
            chart
                .draw_series(bars)?
                .label(name)
                .legend(move |(x, y)| Rectangle::new([(x + 2, y - 5), (x + 14, y + 5)], color.filled()));
            for (index, figure) in figures.iter().enumerate() {
                let Some(time) = of(figure).map(milliseconds) else { continue };
                let chosen = match figure.chosen {
                    Chosen::Kernel => place == 0,
                    Chosen::Copies => place == 1,
                };
                let text = format!("{time:.2}{}", if chosen { " ●" } else { "" });
                let (x, y) = chart.backend_coord(&(left(index) + 0.11, time));
                let centered = font.clone().pos(centered_above());
                area.draw(&Text::new(text, (x, y - 4), centered))?;
            }
        }
        for (index, figure) in figures.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(index as f64 + 0.49, 0.0));
            area.draw(&Text::new(figure.case.clone(), (x, y + 24), font.clone().pos(centered_above())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .margin(14)
            .border_style(TRANSPARENT)
            .background_style(WHITE.mix(0.8))
            .label_font(font)
            .draw()
    })
}

fn centered_above() -> plotters::style::text_anchor::Pos {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    Pos::new(HPos::Center, VPos::Bottom)
}

fn draw(paint: impl FnOnce(&Area<'_>) -> Outcome) -> String {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    paint(&area).and_then(|()| area.present()).expect("a string takes every drawing");
    drop(area);
    svg
}
