//! 95 % intervals of resampled figures.

/// The 2.5th and the 97.5th percentile of `values`, of which there is at least one.
#[must_use]
pub fn percentile_interval(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_unstable_by(f64::total_cmp);
    [0.025, 0.975].map(|part| values[(part * (values.len() - 1) as f64).round() as usize])
}
