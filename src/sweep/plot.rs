//! A sweep as a picture: mean R@1 of each setting over seeds.

use plotters::prelude::*;

use super::{Row, Summary};

const WIDTH: u32 = 760;
const HEIGHT: u32 = 420;
const COLOUR: RGBColor = RGBColor(31, 95, 160);
const RUNS: RGBColor = RGBColor(150, 150, 150);
const LONGEST_NAME: usize = 22;

/// SVG of mean R@1 over seeds with its standard deviation, and every run; over the value where one number varies.
///
/// # Errors
/// When nothing is finished, or the picture cannot be drawn.
pub fn plot(summary: &Summary, title: &str) -> Result<String, String> {
    let mut svg = String::new();
    draw(summary, title, &mut svg).map_err(|error| error.to_string())?;
    Ok(svg)
}

/// Where a setting stands, and what it came to.
struct Point<'a> {
    x: f64,
    row: &'a Row,
    mean: f64,
    spread: f64,
}

fn draw(summary: &Summary, title: &str, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let has_axis = summary.settings.len() > 1 && summary.settings.iter().all(|row| row.number.is_some());
    let points: Vec<Point> = (0..)
        .zip(&summary.settings)
        .filter_map(|(place, row): (i32, &Row)| {
            let x = row.number.filter(|_| has_axis).unwrap_or(f64::from(place));
            let spread = row.spread.map_or(0.0, |spread| spread.mean);
            Some(Point { x, row, mean: row.mean?.mean, spread })
        })
        .collect();
    if points.is_empty() {
        return Err("no run is finished".into());
    }
    let range = |values: &[f64]| {
        let (low, high) =
            values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
        let margin = ((high - low) * 0.08).max(0.2);
        low - margin..high + margin
    };
    let xs: Vec<f64> = points.iter().map(|point| point.x).collect();
    let runs = |point: &Point| point.row.means().collect::<Vec<f64>>();
    let ys: Vec<f64> = points
        .iter()
        .flat_map(|point| [point.mean - point.spread, point.mean + point.spread].into_iter().chain(runs(point)))
        .collect();

    let area = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(if has_axis { 44 } else { 110 })
        .y_label_area_size(56)
        .build_cartesian_2d(range(&xs), range(&ys))?;
    let mut mesh = chart.configure_mesh();
    mesh.y_desc("mean R@1, %").label_style(("sans-serif", 13)).light_line_style(WHITE).bold_line_style(BLACK.mix(0.1));
    if has_axis {
        let key = points[0].row.name.split('=').next().unwrap_or_default();
        mesh.x_desc(key).draw()?;
    } else {
        mesh.disable_x_mesh().x_labels(0).draw()?;
    }
    if has_axis {
        chart.draw_series(LineSeries::new(points.iter().map(|point| (point.x, point.mean)), COLOUR.stroke_width(2)))?;
    }
    for point in &points {
        chart.draw_series(runs(point).into_iter().map(|mean| Circle::new((point.x, mean), 2, RUNS.filled())))?;
        let (low, high) = (point.mean - point.spread, point.mean + point.spread);
        let bar = ErrorBar::new_vertical(point.x, low, point.mean, high, COLOUR.filled(), 8);
        chart.draw_series([bar])?;
        if !has_axis {
            let (left, _) = chart.backend_coord(&(point.x, point.mean));
            let style = TextStyle::from(("sans-serif", 12).into_font()).transform(FontTransform::None);
            let name: String = point.row.name.chars().take(LONGEST_NAME).collect();
            let place = (left - 4, HEIGHT as i32 - 112 + 14 * (1 + (point.x as i32) % 6));
            area.draw(&Text::new(name, place, style))?;
        }
    }
    area.present()?;
    Ok(())
}
