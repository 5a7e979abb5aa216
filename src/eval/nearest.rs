//! The items of a gallery that score highest with each query.

use tch::{Device, Kind, Tensor};

use super::ranks::values;
use crate::model::{LibtorchError, catch_libtorch, numbers_of};

/// Scores that are held at once.
const BLOCK: i64 = 16 << 20;

/// Calls `visit` with every query of `queries` [Q, E] and the `k` rows of `gallery` [G, E] that score highest, the best first.
pub(super) fn for_each_nearest<E: From<LibtorchError>>(
    queries: &Tensor,
    gallery: &Tensor,
    k: usize,
    mut visit: impl FnMut(usize, &[usize]) -> Result<(), E>,
) -> Result<(), E> {
    let (count, items) = (queries.size()[0], gallery.size()[0]);
    let (k, step) = ((k as i64).min(items), (BLOCK / items.max(1)).max(1));
    for start in (0..count).step_by(step as usize) {
        let places = catch_libtorch(|| {
            let scores = queries.narrow(0, start, step.min(count - start)).matmul(&gallery.tr());
            scores.topk(k, 1, true, true).1.to_device(Device::Cpu).to_kind(Kind::Int64)
        })?;
        let places: Vec<usize> = numbers_of(&places)?.into_iter().map(|place| place as usize).collect();
        for (query, found) in (start as usize..).zip(places.chunks_exact(k.max(1) as usize)) {
            visit(query, found)?;
        }
    }
    Ok(())
}

/// Of each query of `queries` [Q, E] the `k` rows of `gallery` [G, E] that score highest, the best first.
///
/// # Errors
/// When libtorch fails.
pub fn nearest(queries: &Tensor, gallery: &Tensor, k: usize) -> Result<Vec<Vec<usize>>, LibtorchError> {
    let mut all = Vec::with_capacity(queries.size()[0] as usize);
    for_each_nearest(queries, gallery, k, |_, found| {
        all.push(found.to_vec());
        Ok::<(), LibtorchError>(())
    })?;
    Ok(all)
}

/// Of each of the `rows` of `items` [Q, E] the `k` rows of `gallery` [G, E] that score highest, the best first, with their scores.
///
/// # Errors
/// When libtorch fails.
pub fn nearest_to(
    rows: &[usize],
    items: &Tensor,
    gallery: &Tensor,
    k: usize,
) -> Result<Vec<Vec<(usize, f32)>>, LibtorchError> {
    let numbers: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    let queries = catch_libtorch(|| items.index_select(0, &Tensor::from_slice(&numbers)))?;
    let found = nearest(&queries, gallery, k)?;
    let width = gallery.size()[1] as usize;
    let (queries, gallery) = catch_libtorch(|| (values(&queries), values(gallery)))?;
    let product = |query: &[f32], row: usize| {
        query.iter().zip(&gallery[row * width..]).map(|(one, other)| one * other).sum::<f32>()
    };
    let scored = |(query, found): (&[f32], Vec<usize>)| {
        found.into_iter().map(|row| (row, product(query, row))).collect::<Vec<_>>()
    };
    Ok(queries.chunks_exact(width).zip(found).map(scored).collect())
}
