//! Graphs of neighbours of an index that is made or brought up to date.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::graph::{Graph, GraphConfig, GraphHead, key, scale_for};
use super::index::{Entry, Head, Index};
use super::vectors::Mapped;
use super::{EFFORT, SearchError};
use crate::data::Medium;
use crate::eval::spread;

/// Queries by which the recall is measured, and how many of the nearest they ask for.
const ASKED: usize = 100;
const NEAREST: usize = 10;
/// A graph is made anew where more than one in so many of its rows came, changed or went.
const CHANGED: usize = 4;

/// Makes the graphs of an index `head` in `folder` whose `rows`, each with whether it was there before, lie in `vectors`, or takes them over
/// from `old`.
pub(super) fn link(
    folder: &Path,
    head: &Head,
    rows: &[(&Entry, bool)],
    vectors: &Mapped,
    (old, config): (Option<&Index>, GraphConfig),
) -> Result<Vec<GraphHead>, SearchError> {
    let mut graphs = Vec::new();
    for medium in [Medium::Image, Medium::Speech] {
        let of = |medium| (0..rows.len()).filter(move |row| rows[*row].0.medium == medium);
        let numbers: Vec<usize> = of(medium).collect();
        if numbers.len() <= config.above {
            continue;
        }
        let keyed = |(row, is_old): (usize, bool)| (key(&rows[row].0.file), row, is_old);
        let keyed: Vec<(u64, usize, bool)> = numbers.iter().map(|row| keyed((*row, rows[*row].1))).collect();
        let known = old.and_then(|old| {
            let graph = old.head.graphs.iter().find(|graph| graph.medium == medium)?;
            (graph.links == config.links && graph.effort == config.effort).then_some((old, graph))
        });
        let name = head.graph(medium);
        let path = folder.join(&name);
        let failed = |why: String| SearchError::Write { path: path.clone(), source: std::io::Error::other(why) };
        let taken = match known {
            Some((old, graph)) => match change(folder, old, graph, &keyed, vectors) {
                Ok(Changed::Nothing) => {
                    graphs.push(graph.clone());
                    continue;
                }
                Ok(Changed::Much) => None,
                Ok(Changed::Some(changed)) => Some((changed, graph.scale)),
                Err(error) => {
                    tracing::warn!("{error}; it is made anew");
                    None
                }
            },
            None => None,
        };
        let (graph, scale) = match taken {
            Some(taken) => taken,
            None => {
                let scale = scale_for(numbers.iter().map(|row| vectors.floats(*row)));
                let graph = Graph::new(head.width, scale, config).map_err(failed)?;
                let all: Vec<(u64, usize)> = keyed.iter().map(|(key, row, _)| (*key, *row)).collect();
                graph.add(&all, vectors).map_err(failed)?;
                (graph, scale)
            }
        };
        let others: Vec<usize> = of(medium.other()).collect();
        let asking = if others.is_empty() { &numbers } else { &others };
        let recall = recall(&graph, &keyed, vectors, asking).map_err(failed)?;
        let hash = graph.save(&path).map_err(failed)?;
        let (links, effort, count) = (config.links, config.effort, graph.count());
        graphs.push(GraphHead { medium, file: name, hash, scale, links, effort, count, recall });
    }
    Ok(graphs)
}

/// How an older graph follows.
enum Changed {
    /// It is as it was.
    Nothing,
    /// With what came, and without what went.
    Some(Graph),
    /// So much came and went that it is not worth it.
    Much,
}

/// The graph `head` of `old`, brought up to date with `keyed`: key, row, and whether it was there before.
fn change(
    folder: &Path,
    old: &Index,
    head: &GraphHead,
    keyed: &[(u64, usize, bool)],
    vectors: &Mapped,
) -> Result<Changed, SearchError> {
    let kept: HashSet<u64> = keyed.iter().filter(|(_, _, is_old)| *is_old).map(|(key, ..)| *key).collect();
    let of_old = old.entries[..old.head.count].iter().filter(|entry| entry.medium == head.medium);
    let gone: Vec<u64> = of_old.map(|entry| key(&entry.file)).filter(|key| !kept.contains(key)).collect();
    let came = keyed.iter().filter(|(_, _, is_old)| !is_old).map(|(key, row, _)| (*key, *row));
    let came: Vec<(u64, usize)> = came.collect();
    // A changed file goes and comes.
    let new: HashSet<u64> = came.iter().map(|(key, _)| *key).collect();
    match came.len() + gone.iter().filter(|key| !new.contains(key)).count() {
        // If it is whole.
        0 => return Graph::open(folder, head, old.head.width, false).map(|_| Changed::Nothing),
        changes if changes > keyed.len() / CHANGED => return Ok(Changed::Much),
        _ => {}
    }
    let graph = Graph::open(folder, head, old.head.width, true)?;
    tracing::info!("{}: {} files go into the graph, {} out of it", head.medium.name(), came.len(), gone.len());
    let failed = |why| SearchError::Graph { why };
    gone.into_iter().try_for_each(|key| graph.remove(key)).map_err(failed)?;
    graph.add(&came, vectors).map_err(failed)?;
    Ok(Changed::Some(graph))
}

/// The share of what is nearest to the rows `asking` that the graph finds.
fn recall(graph: &Graph, keyed: &[(u64, usize, bool)], vectors: &Mapped, asking: &[usize]) -> Result<f64, String> {
    let rows: Vec<usize> = keyed.iter().map(|(_, row, _)| *row).collect();
    let key_of: HashMap<usize, u64> = keyed.iter().map(|(key, row, _)| (*row, *key)).collect();
    let (mut found, mut all) = (0, 0);
    for place in spread(asking.len(), ASKED) {
        let query = vectors.floats(asking[place]);
        let keys: HashSet<u64> = graph.nearest(&query, EFFORT)?.into_iter().collect();
        let nearest = vectors.nearest(&rows, &query, NEAREST);
        found += nearest.iter().filter(|(row, _)| keys.contains(&key_of[row])).count();
        all += nearest.len();
    }
    Ok(found as f64 / all.max(1) as f64)
}
