//! A graph of neighbours (HNSW, by usearch) over the rows of a large index, so that a query looks at few of them. The graph holds the
//! vectors as bytes, which is enough to walk by; those that it finds are scored by the rows themselves.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use usearch::{IndexOptions, MetricKind, ScalarKind};

use super::SearchError;
use super::vectors::Mapped;
use crate::data::Medium;
use crate::telemetry::Progress;

/// Largest byte.
const MOST: f32 = 127.0;
/// Rows that a thread takes at once.
const BLOCK: usize = 64;

/// When a graph is made, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphConfig {
    /// Rows of a medium above which it has one.
    pub above: usize,
    /// Neighbours of a row (M).
    pub links: usize,
    /// Rows that are looked at to find them (ef of the construction).
    pub effort: usize,
}

impl Default for GraphConfig {
    fn default() -> Self {
        Self { above: 100_000, links: 16, effort: 128 }
    }
}

/// What `index.json` tells of a graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GraphHead {
    /// Files that it is of.
    pub medium: Medium,
    /// Its file, below the index.
    pub file: PathBuf,
    /// BLAKE3 of that.
    pub hash: String,
    /// A value of 1 as a byte.
    pub scale: f32,
    /// Neighbours of a row.
    pub links: usize,
    /// Rows that were looked at to find them.
    pub effort: usize,
    /// Rows in it.
    pub count: usize,
    /// Share of the ten nearest by all rows that it finds too.
    pub recall: f64,
}

/// A graph in memory or mapped into it.
pub(super) struct Graph {
    inner: usearch::Index,
    scale: f32,
    /// Held by who asks: usearch has room for as many as were announced.
    asking: Mutex<()>,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("count", &self.inner.size()).finish_non_exhaustive()
    }
}

/// The key of a file in a graph, which stays whatever comes and goes: the first eight bytes of its name's SHA-256.
pub(super) fn key(file: &Path) -> u64 {
    let hash = Sha256::digest(file.as_os_str().as_encoded_bytes());
    hash[..8].iter().fold(0, |key, byte| key << 8 | u64::from(*byte))
}

impl Graph {
    /// An empty one that rows can be added to.
    pub(super) fn new(width: usize, scale: f32, config: GraphConfig) -> Result<Self, String> {
        Ok(Self::empty(width, scale, config)?.by_own_product(width))
    }

    /// An empty one for vectors of `width`, of which a value of 1 is `scale` as a byte.
    fn empty(width: usize, scale: f32, config: GraphConfig) -> Result<Self, String> {
        let options = IndexOptions {
            dimensions: width,
            metric: MetricKind::IP,
            quantization: ScalarKind::I8,
            connectivity: config.links,
            expansion_add: config.effort,
            // As many as are asked for.
            expansion_search: 1,
            multi: false,
        };
        let inner = usearch::Index::new(&options).map_err(|error| error.to_string())?;
        Ok(Self { inner, scale, asking: Mutex::new(()) })
    }

    /// The one that `head` tells of in `folder`; to be changed, or else only read.
    pub(super) fn open(folder: &Path, head: &GraphHead, width: usize, changes: bool) -> Result<Self, SearchError> {
        let path = folder.join(&head.file);
        let damaged = |why: String| SearchError::Damaged { path: path.clone(), why };
        // What libraries of graphs do with a damaged file is undefined.
        if hash_of(&path).map_err(|error| damaged(error.to_string()))? != head.hash {
            return Err(damaged("it is not the file that the index tells of".to_owned()));
        }
        let config = GraphConfig { above: 0, links: head.links, effort: head.effort };
        let graph = Self::empty(width, head.scale, config).map_err(damaged)?;
        let name = path.to_str().ok_or_else(|| damaged("its name is not valid Unicode".to_owned()))?;
        let opened = if changes { graph.inner.load(name) } else { graph.inner.view(name) };
        opened.map_err(|error| damaged(error.to_string()))?;
        if graph.inner.dimensions() != width || graph.inner.size() != head.count {
            return Err(damaged("its rows are not those that the index tells of".to_owned()));
        }
        graph.inner.reserve_capacity_and_threads(head.count, 1).map_err(|error| damaged(error.to_string()))?;
        Ok(graph.by_own_product(width))
    }

    /// Our own product instead of usearch's, which without its SIMD kernels takes ten times as long.
    fn by_own_product(mut self, width: usize) -> Self {
        let (product, unit) = (product(), 1.0 / (self.scale * self.scale));
        let distance = move |one: *const i8, other: *const i8| {
            // SAFETY: usearch hands over two vectors of its dimensions.
            let (one, other) =
                unsafe { (std::slice::from_raw_parts(one, width), std::slice::from_raw_parts(other, width)) };
            1.0 - product(one, other) as f32 * unit
        };
        self.inner.change_metric::<i8>(Box::new(distance));
        self
    }

    /// Takes `rows` of `vectors` in, each under its key.
    pub(super) fn add(&self, rows: &[(u64, usize)], vectors: &Mapped) -> Result<(), String> {
        let threads =
            std::thread::available_parallelism().map_or(1, usize::from).min(rows.len().div_ceil(BLOCK)).max(1);
        let reserved = self.inner.reserve_capacity_and_threads(self.inner.size() + rows.len(), threads);
        reserved.map_err(|error| error.to_string())?;
        let progress = Mutex::new(Progress::new("linking", "vectors", 0, rows.len() as u64));
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(block) = rows.chunks(BLOCK).nth(next.fetch_add(1, Ordering::Relaxed)) {
                for (key, row) in block {
                    let bytes = bytes(&vectors.floats(*row), self.scale);
                    self.inner.add(*key, &bytes).map_err(|error| error.to_string())?;
                }
                if let Ok(mut progress) = progress.lock() {
                    progress.advance(block.len() as u64, String::new);
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let panicked = |_| Err("a thread failed".to_owned());
            others.into_iter().map(|other| other.join().unwrap_or_else(panicked)).fold(own, Result::and)
        })
    }

    /// Leaves a file out.
    pub(super) fn remove(&self, key: u64) -> Result<(), String> {
        self.inner.remove(key).map(|_| ()).map_err(|error| error.to_string())
    }

    /// Rows in it.
    pub(super) fn count(&self) -> usize {
        self.inner.size()
    }

    /// Writes it, and returns the BLAKE3 of the file.
    pub(super) fn save(&self, path: &Path) -> Result<String, String> {
        let name = path.to_str().ok_or("its name is not valid Unicode")?;
        self.inner.save(name).map_err(|error| error.to_string())?;
        // Before something tells of it.
        let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
        synced.and_then(|()| hash_of(path)).map_err(|error| error.to_string())
    }

    /// Keys of about the `count` nearest to `query`.
    pub(super) fn nearest(&self, query: &[f32], count: usize) -> Result<Vec<u64>, String> {
        let _alone = self.asking.lock();
        // In a scale of its own, which changes no order.
        let count = count.min(self.count());
        Ok(self.inner.search(&bytes(query, scale_for([query])), count).map_err(|error| error.to_string())?.keys)
    }
}

/// BLAKE3 of a file.
fn hash_of(path: &Path) -> std::io::Result<String> {
    Ok(blake3::Hasher::new().update_mmap(path)?.finalize().to_hex().to_string())
}

fn bytes(row: &[f32], scale: f32) -> Vec<i8> {
    row.iter().map(|value| (value * scale).round().clamp(-MOST, MOST) as i8).collect()
}

/// What a value of 1 becomes as a byte, so that the largest of `rows` just fits.
pub(super) fn scale_for<R: AsRef<[f32]>>(rows: impl IntoIterator<Item = R>) -> f32 {
    let largest = |row: R| row.as_ref().iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
    MOST / rows.into_iter().map(largest).fold(f32::MIN_POSITIVE, f32::max)
}

type Product = fn(&[i8], &[i8]) -> i32;

/// The widest product that this processor has.
fn product() -> Product {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what it is compiled for.
        return |one, other| unsafe { wide(one, other) };
    }
    narrow
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn wide(one: &[i8], other: &[i8]) -> i32 {
    narrow(one, other)
}

/// In 32 bits: 127 · 127 · E stays below 2^31 for every E that fits into memory.
#[inline(always)]
fn narrow(one: &[i8], other: &[i8]) -> i32 {
    one.iter().zip(other).map(|(one, other)| i32::from(*one) * i32::from(*other)).sum()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::super::Rows;
    use super::*;

    /// Rows around some centres, as those of things that are alike, and others that ask for them.
    fn rows(count: usize, width: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut value = || random.next_u32() as f32 / u32::MAX as f32 - 0.5;
        let centres: Vec<Vec<f32>> = (0..count / 20 + 1).map(|_| (0..width).map(|_| value()).collect()).collect();
        let unit = |row: Vec<f32>| {
            let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.into_iter().map(|value| value / norm).collect()
        };
        (0..count)
            .map(|row| unit(centres[row % centres.len()].iter().map(|centre| centre + 1.5 * value()).collect()))
            .collect()
    }

    fn mapped(folder: &Path, rows: &[Vec<f32>]) -> Mapped {
        let (form, path, width) = (Rows::F32, folder.join("rows.npy"), rows[0].len());
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).expect("a file"));
        file.write_all(&form.header(rows.len(), width)).expect("written");
        rows.iter().for_each(|row| file.write_all(&form.encode(row)).expect("written"));
        drop(file);
        Mapped::open(&path, form, rows.len(), width).expect("opened")
    }

    /// The share of the ten nearest that is found, and the seconds of a query.
    fn found(graph: &Graph, vectors: &Mapped, asking: &[Vec<f32>], of: &[usize], effort: usize) -> (f64, f64) {
        let (mut hits, mut seconds) = (0, 0.0);
        for query in asking {
            let begun = std::time::Instant::now();
            let near = graph.nearest(query, effort).expect("found");
            seconds += begun.elapsed().as_secs_f64();
            hits += vectors.nearest(of, query, 10).iter().filter(|(row, _)| near.contains(&(*row as u64))).count();
        }
        (hits as f64 / (10 * asking.len()) as f64, seconds / asking.len() as f64)
    }

    #[test]
    fn what_is_nearest_is_found_also_after_rows_came_and_went_and_by_threads() {
        let folder = tempfile::tempdir().expect("a folder");
        let all = rows(3000, 70, 1);
        let vectors = mapped(folder.path(), &all);
        let graph = Graph::new(70, scale_for(&all), GraphConfig::default()).expect("a graph");
        let keyed: Vec<(u64, usize)> = (0..2900).map(|row| (row as u64, row)).collect();
        graph.add(&keyed, &vectors).expect("added");
        (0..50).try_for_each(|key| graph.remove(key)).expect("removed");
        graph.add(&(2900..3000).map(|row| (row as u64, row)).collect::<Vec<_>>(), &vectors).expect("added");
        let path = folder.path().join("graph.usearch");
        let hash = graph.save(&path).expect("saved");
        assert_eq!(hash, blake3::hash(&std::fs::read(&path).expect("bytes")).to_hex().as_str());
        let head = GraphHead {
            medium: Medium::Image,
            file: "graph.usearch".into(),
            hash,
            scale: graph.scale,
            links: 16,
            effort: 128,
            count: 2950,
            recall: 0.0,
        };
        let there: Vec<usize> = (50..3000).collect();
        for changes in [false, true] {
            let graph = Graph::open(folder.path(), &head, 70, changes).expect("opened");
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (graph, vectors, there, all) = (&graph, &vectors, &there, &all);
                    scope.spawn(move || {
                        let (recall, _) = found(graph, vectors, &all[50 * thread..50 * (thread + 1)], there, 256);
                        assert!(recall > 0.95, "{recall}");
                    });
                }
            });
        }
        let mut bytes = std::fs::read(&path).expect("bytes");
        bytes[5000] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        let error = Graph::open(folder.path(), &head, 70, false).expect_err("damaged").to_string();
        assert!(error.contains("graph.usearch") && error.contains("cmd search index"), "{error}");
    }

    #[test]
    #[ignore = "a measurement"]
    #[allow(clippy::print_stdout, reason = "it is what the measurement is for")]
    fn many_rows() {
        let count = std::env::var("ROWS").map_or(100_000, |rows| rows.parse().expect("a number"));
        let folder = tempfile::tempdir().expect("a folder");
        let mut all = rows(count + 100, 768, 1);
        let asking = all.split_off(count);
        let vectors = mapped(folder.path(), &all);
        let begun = std::time::Instant::now();
        let graph = Graph::new(768, scale_for(&all), GraphConfig::default()).expect("a graph");
        graph.add(&(0..count).map(|row| (row as u64, row)).collect::<Vec<_>>(), &vectors).expect("added");
        println!("{count} x 768: made in {:?}", begun.elapsed());
        let of: Vec<usize> = (0..count).collect();
        for effort in [64, 128, 256, 512] {
            let (recall, seconds) = found(&graph, &vectors, &asking, &of, effort);
            println!("effort {effort}: recall@10 {recall:.3}, {:.2} ms a query", 1000.0 * seconds);
        }
    }
}
