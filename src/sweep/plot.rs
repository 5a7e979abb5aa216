//! A sweep as a picture: mean R@1 of each setting over seeds.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Row, Summary};

const WIDTH: u32 = 760;
/// Of a picture over values.
const HEIGHT: u32 = 420;
/// Of a setting in one by names.
const LINE: u32 = 26;
const NAMES: u32 = 230;
const LONGEST_NAME: usize = 34;
const COLOUR: RGBColor = RGBColor(31, 95, 160);
const RUNS: RGBColor = RGBColor(150, 150, 150);
const RECALL: &str = "mean R@1, %";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What a setting came to.
struct Point<'a> {
    row: &'a Row,
    mean: f64,
    spread: f64,
}

impl Point<'_> {
    fn ends(&self) -> [f64; 2] {
        [self.mean - self.spread, self.mean + self.spread]
    }
}

/// SVG of mean R@1 over seeds with its standard deviation, and every run: over the value where one number varies, else a line a setting.
///
/// # Errors
/// When nothing is finished, or the picture cannot be drawn.
pub fn plot(summary: &Summary, title: &str) -> std::result::Result<String, String> {
    let mut points: Vec<Point> = summary
        .settings
        .iter()
        .filter_map(|row| {
            Some(Point { row, mean: row.mean?.mean, spread: row.spread.map_or(0.0, |spread| spread.mean) })
        })
        .collect();
    if points.is_empty() {
        return Err("no run is finished".to_owned());
    }
    points.sort_by(|a, b| a.row.number.partial_cmp(&b.row.number).unwrap_or(std::cmp::Ordering::Equal));
    let places: Option<Vec<f64>> = points.iter().map(|point| point.row.number).collect();
    let mut svg = String::new();
    let drawn = match places.filter(|places| places.len() > 1) {
        Some(places) => {
            let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
            over_values(&area, &points, &places, title)
        }
        None => {
            let height = 90 + LINE * points.len() as u32;
            let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
            by_name(&area, &points, title)
        }
    };
    drawn.map_err(|error| error.to_string())?;
    Ok(svg)
}

/// From the lowest to the highest of `values`, and some more on both sides, at least `least`.
fn range(values: impl Iterator<Item = f64>, least: f64) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    let margin = ((high - low) * 0.08).max(least);
    low - margin..high + margin
}

fn recalls(points: &[Point]) -> std::ops::Range<f64> {
    range(points.iter().flat_map(|point| point.row.means().chain(point.ends())), 0.2)
}

fn over_values(area: &DrawingArea<SVGBackend, Shift>, points: &[Point], places: &[f64], title: &str) -> Result<()> {
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(range(places.iter().copied(), f64::MIN_POSITIVE), recalls(points))?;
    let key = points[0].row.name.split('=').next().unwrap_or_default();
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(key).y_desc(RECALL).label_style(("sans-serif", 13));
    mesh.light_line_style(WHITE).bold_line_style(BLACK.mix(0.1)).draw()?;
    let line = places.iter().zip(points).map(|(x, point)| (*x, point.mean));
    chart.draw_series(LineSeries::new(line, COLOUR.stroke_width(2)))?;
    for (x, point) in places.iter().zip(points) {
        chart.draw_series(point.row.means().map(|mean| Circle::new((*x, mean), 2, RUNS.filled())))?;
        let [low, high] = point.ends();
        chart.draw_series([ErrorBar::new_vertical(*x, low, point.mean, high, COLOUR.filled(), 8)])?;
    }
    Ok(area.present()?)
}

fn by_name(area: &DrawingArea<SVGBackend, Shift>, points: &[Point], title: &str) -> Result<()> {
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(NAMES)
        .build_cartesian_2d(recalls(points), points.len() as f64 - 0.5..-0.5)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_y_mesh().disable_y_axis().x_desc(RECALL).label_style(("sans-serif", 13));
    mesh.light_line_style(WHITE).bold_line_style(BLACK.mix(0.1)).draw()?;
    let style = TextStyle::from(("sans-serif", 13).into_font()).pos(Pos::new(HPos::Right, VPos::Center));
    for (y, point) in (0..).map(f64::from).zip(points) {
        chart.draw_series(point.row.means().map(|mean| Circle::new((mean, y), 2, RUNS.filled())))?;
        let [low, high] = point.ends();
        chart.draw_series([ErrorBar::new_horizontal(y, low, point.mean, high, COLOUR.filled(), 8)])?;
        let (_, top) = chart.backend_coord(&(point.mean, y));
        let name: String = point.row.name.chars().take(LONGEST_NAME).collect();
        area.draw(&Text::new(name, (NAMES as i32, top), style.clone()))?;
    }
    Ok(area.present()?)
}
