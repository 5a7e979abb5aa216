//! What each hidden state of the speech encoder counts in the speech head's sum, as bars.

use plotters::prelude::*;

use super::ReportError;
use super::chart::{COLOURS, GRID, INK};

const WIDTH: u32 = 720;
const HEIGHT: u32 = 260;

/// Bars of softmax(w) of one or more models, beside each other, as SVG.
///
/// # Errors
/// When it cannot be drawn.
pub fn layer_bars(models: &[Vec<f64>]) -> Result<String, ReportError> {
    let mut svg = String::new();
    draw(&mut svg, models)
        .map_err(|error| ReportError::Chart { what: "weights of the layers".to_owned(), why: error.to_string() })?;
    Ok(svg)
}

fn draw(svg: &mut String, models: &[Vec<f64>]) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
    let layers = models.iter().map(Vec::len).max().unwrap_or(1);
    let most = models.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.6..layers as f64 - 0.4, 0.0..1.05 * most)?;
    let style = ("sans-serif", 14).into_font().color(&INK);
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("hidden state (0 is the input of the first layer)").y_desc("weight");
    mesh.label_style(style.clone()).axis_desc_style(style).axis_style(INK).disable_x_mesh();
    mesh.x_labels(layers.min(25)).x_label_formatter(&|value| format!("{value:.0}")).y_labels(5);
    mesh.light_line_style(TRANSPARENT).bold_line_style(GRID).draw()?;
    let width = 0.8 / models.len().max(1) as f64;
    for (number, weights) in models.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let bar = |(layer, weight): (usize, &f64)| {
            let left = layer as f64 - 0.4 + number as f64 * width;
            Rectangle::new([(left, 0.0), (left + 0.94 * width, *weight)], colour.filled())
        };
        chart.draw_series(weights.iter().enumerate().map(bar))?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_of_every_model_has_a_bar() {
        let svg = layer_bars(&[vec![0.04; 25], vec![0.04; 25]]).expect("drawn");
        let bars = |colour: &str| svg.matches(&format!("fill=\"{colour}\"")).count();
        assert_eq!((bars("#1F5FA0"), bars("#C4500A")), (25, 25));
    }
}
