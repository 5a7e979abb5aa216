//! The model's desk: requests wait in a line, and one thread embeds what waits, in batches.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::metrics::Metrics;
use super::problem::Problem;
use crate::data::{Audio, Content, Picture};
use crate::eval::{Embedder, EvalError, Keyword, Look};
use crate::model::FusionEncoder;

/// Between two looks whether the server is over.
const LOOK: Duration = Duration::from_millis(100);

/// What is asked of the model.
enum Job {
    /// An embedding of words, and whether there were too many.
    Read { words: String, reply: oneshot::Sender<Result<(Vec<f32>, bool), String>> },
    /// An embedding.
    Embed { content: Content, reply: oneshot::Sender<Result<Vec<f32>, String>> },
    /// What is heard in an utterance.
    Hear { sound: Audio, reply: oneshot::Sender<Result<Vec<Keyword>, String>> },
    /// Where an utterance looks.
    Look { sound: Audio, picture: Picture, parts: usize, reply: oneshot::Sender<Result<Look, String>> },
}

/// The place of the thread that has the model.
#[derive(Debug)]
pub struct Desk {
    waiting: Receiver<Job>,
    batch: NonZeroUsize,
    metrics: Arc<Metrics>,
    /// Nobody is served any more.
    over: Arc<AtomicBool>,
}

/// The place of those who ask.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    line: SyncSender<Job>,
    metrics: Arc<Metrics>,
}

/// A desk for forwards of `batch` requests, and its line of at most `queue`.
pub(super) fn desk(
    queue: usize,
    batch: NonZeroUsize,
    metrics: &Arc<Metrics>,
    over: &Arc<AtomicBool>,
) -> (Desk, Counter) {
    let (line, waiting) = sync_channel(queue);
    let over = over.clone();
    (Desk { waiting, batch, metrics: metrics.clone(), over }, Counter { line, metrics: metrics.clone() })
}

impl Desk {
    /// Works until the server is over.
    pub fn work(self, embedder: Embedder<'_>, fusion: Option<&FusionEncoder>) {
        loop {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let first = match self.waiting.recv_timeout(LOOK) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let others = std::iter::from_fn(|| self.waiting.try_recv().ok());
            let jobs: Vec<Job> = [first].into_iter().chain(others).take(self.batch.get()).collect();
            self.metrics.left(jobs.len());
            let (mut contents, mut replies) = (Vec::new(), Vec::new());
            let (mut texts, mut text_replies) = (Vec::new(), Vec::new());
            for job in jobs {
                match job {
                    // Nobody waits for it any more.
                    Job::Embed { reply, .. } if reply.is_closed() => {}
                    Job::Read { reply, .. } if reply.is_closed() => {}
                    Job::Hear { reply, .. } if reply.is_closed() => {}
                    Job::Look { reply, .. } if reply.is_closed() => {}
                    Job::Embed { content, reply } => {
                        contents.push(content);
                        replies.push(reply);
                    }
                    Job::Read { words, reply } => {
                        texts.push(words);
                        text_replies.push(reply);
                    }
                    Job::Hear { sound, reply } => self.one(reply, || {
                        let heard = embedder.keywords(&[&sound])?.and_then(|mut heard| heard.pop());
                        Ok(heard.map(|heard| heard.keywords).unwrap_or_default())
                    }),
                    Job::Look { sound, picture, parts, reply } => match fusion {
                        Some(fusion) => self.one(reply, || embedder.look(fusion, &sound, &picture, parts)),
                        None => drop(reply.send(Err("the model has no fusion encoder".to_owned()))),
                    },
                }
            }
            let rows = |contents: &[Content]| embedder.rows(&contents.iter().collect::<Vec<_>>(), false);
            self.embed(&contents, replies, rows, |_, row| row);
            let read = |texts: &[String]| embedder.texts(texts);
            self.embed(&texts, text_replies, read, |text, row| (row, embedder.cuts(text)));
        }
    }

    /// Answers by what is made of one request.
    fn one<T>(&self, reply: oneshot::Sender<Result<T, String>>, work: impl FnOnce() -> Result<T, EvalError>) {
        let begun = Instant::now();
        let done = work();
        self.metrics.forward(1, begun);
        let _ = reply.send(done.map_err(|error| error.to_string()));
    }

    /// Answers each of `asked` by its row of what `embed` makes of them.
    fn embed<T, R>(
        &self,
        asked: &[T],
        replies: Vec<oneshot::Sender<Result<R, String>>>,
        embed: impl Fn(&[T]) -> Result<Vec<Vec<f32>>, EvalError>,
        answer: impl Fn(&T, Vec<f32>) -> R,
    ) {
        if asked.is_empty() {
            return;
        }
        let begun = Instant::now();
        let rows = embed(asked);
        self.metrics.forward(asked.len(), begun);
        // What fails together may work alone; and then one does not fail for another.
        let each: Vec<Result<Vec<f32>, EvalError>> = match rows {
            Ok(rows) => rows.into_iter().map(Ok).collect(),
            Err(error) if asked.len() == 1 => vec![Err(error)],
            Err(_) => asked.chunks(1).map(|one| Ok(embed(one)?.remove(0))).collect(),
        };
        for ((row, reply), asked) in each.into_iter().zip(replies).zip(asked) {
            let is_finite = |row: &Vec<f32>| row.iter().all(|value| value.is_finite());
            let row = row.map_err(|error| error.to_string());
            let row = row.and_then(|row| is_finite(&row).then_some(row).ok_or("an embedding is NaN".to_owned()));
            let _ = reply.send(row.map(|row| answer(asked, row)));
        }
    }
}

impl Counter {
    /// The embedding of `content`.
    pub(super) async fn embed(&self, content: Content) -> Result<Vec<f32>, Problem> {
        let (reply, answer) = oneshot::channel();
        self.ask(Job::Embed { content, reply })?;
        answer.await.map_err(Problem::failed)?.map_err(Problem::failed)
    }

    /// The embedding of `words`, and whether there were too many, and only the first were read.
    pub(super) async fn read(&self, words: String) -> Result<(Vec<f32>, bool), Problem> {
        let (reply, answer) = oneshot::channel();
        self.ask(Job::Read { words, reply })?;
        answer.await.map_err(Problem::failed)?.map_err(Problem::failed)
    }

    /// The keywords that are heard in `sound`.
    pub(super) async fn hear(&self, sound: Audio) -> Result<Vec<Keyword>, Problem> {
        let (reply, answer) = oneshot::channel();
        self.ask(Job::Hear { sound, reply })?;
        let keywords = answer.await.map_err(Problem::failed)?.map_err(Problem::failed)?;
        let is_finite = keywords.iter().all(|keyword| keyword.cosine.is_finite());
        is_finite.then_some(keywords).ok_or_else(|| Problem::failed("a keyword is NaN"))
    }

    /// Where `sound` looks in `picture`.
    pub(super) async fn look(&self, sound: Audio, picture: Picture, parts: usize) -> Result<Look, Problem> {
        let (reply, answer) = oneshot::channel();
        self.ask(Job::Look { sound, picture, parts, reply })?;
        answer.await.map_err(Problem::failed)?.map_err(Problem::failed)
    }

    fn ask(&self, job: Job) -> Result<(), Problem> {
        self.metrics.came();
        self.line.try_send(job).map_err(|error| {
            self.metrics.left(1);
            match error {
                TrySendError::Full(_) => Problem::busy(),
                TrySendError::Disconnected(_) => Problem::failed("the model's thread is gone"),
            }
        })
    }
}
