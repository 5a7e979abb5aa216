//! A chart of several runs as SVG, in colours that the page's style sheet puts others in place of in the dark.

use plotters::prelude::*;

use super::ReportError;

const WIDTH: u32 = 460;
const HEIGHT: u32 = 280;
/// Points of a curve; of more, neighbours are averaged.
const POINTS: usize = 400;
/// A colour for each run, again from the first after the last; page.css knows them too.
pub(super) const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 95, 160),
    RGBColor(196, 80, 10),
    RGBColor(26, 127, 55),
    RGBColor(140, 60, 170),
    RGBColor(170, 40, 70),
    RGBColor(0, 120, 130),
    RGBColor(120, 95, 20),
    RGBColor(90, 90, 110),
];
/// Of texts and axes; page.css knows them too.
pub(super) const INK: RGBColor = RGBColor(34, 34, 34);
pub(super) const GRID: RGBColor = RGBColor(221, 221, 221);

/// A curve of the run with that number.
pub(super) struct Curve {
    pub(super) run: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// Curves over steps, `y` on the other axis; with `marked` every point is marked.
pub(super) fn chart(title: &str, y: &str, curves: &[Curve], marked: bool) -> Result<String, ReportError> {
    let mut svg = String::new();
    draw(&mut svg, y, curves, marked)
        .map_err(|error| ReportError::Chart { what: title.to_owned(), why: error.to_string() })?;
    Ok(svg)
}

fn draw(svg: &mut String, y: &str, curves: &[Curve], marked: bool) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(16)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(range(all().map(|(x, _)| *x), 0.0), range(all().map(|(_, y)| *y), 0.06))?;
    let style = ("sans-serif", 14).into_font().color(&INK);
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("step").y_desc(y).label_style(style.clone()).axis_desc_style(style).axis_style(INK);
    mesh.x_labels(6).y_labels(6).x_label_formatter(&|value| number(*value)).y_label_formatter(&|value| number(*value));
    mesh.light_line_style(TRANSPARENT).bold_line_style(GRID).draw()?;
    for Curve { run, points } in curves {
        let colour = COLOURS[run % COLOURS.len()];
        let points = thinned(points);
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        if marked || points.len() == 1 {
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
    }
    area.present()?;
    Ok(())
}

/// From the lowest to the highest of `values`, and a `margin` of that on both sides.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    let width = if high > low { high - low } else { high.abs().max(1e-9) };
    let margin = if high > low { margin * width } else { 0.5 * width };
    low - margin..high + margin
}

/// As few digits as tell ticks apart.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 0.01 => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{value:.1e}"),
    }
}

/// At most `POINTS` points: means of neighbours.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let (x, y) = chunk.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / chunk.len() as f64, y / chunk.len() as f64)
    };
    points.chunks(size).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_are_thinned_to_means() {
        let points: Vec<(f64, f64)> = (0..1000).map(|x| (f64::from(x), 2.0 * f64::from(x))).collect();
        let thin = thinned(&points);
        assert_eq!((thin.len(), thin[0]), (334, (1.0, 2.0)));
        assert_eq!(thinned(&points[..3]), points[..3]);
    }

    #[test]
    fn one_point_and_equal_points_can_be_drawn() {
        for points in [vec![(5.0, 0.0)], vec![(5.0, 1.0), (6.0, 1.0)]] {
            let svg = chart("a", "b", &[Curve { run: 9, points }], false).expect("drawn");
            assert!(svg.starts_with("<svg") && !svg.contains("NaN"), "{svg}");
        }
    }

    #[test]
    fn the_style_sheet_knows_every_colour() {
        let style = include_str!("page.css");
        for RGBColor(r, g, b) in COLOURS.into_iter().chain([INK]) {
            for part in ["stroke", "fill"] {
                assert!(style.contains(&format!(".chart [{part}=\"#{r:02X}{g:02X}{b:02X}\"]")), "{part} {r} {g} {b}");
            }
        }
    }

    #[test]
    fn ticks_have_few_digits() {
        assert_eq!([0.0, 1e-4, 0.07, 0.5, 12.0, 1234.5].map(number), ["0", "1.0e-4", "0.07", "0.5", "12", "1234"]);
    }
}
