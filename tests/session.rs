//! A training composed by a user of the library: no command line, no folder, figures into a sink of one's own.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use cmd::checkpoint::RunDir;
use cmd::config::{Config, Needs};
use cmd::data::Dataset;
use cmd::distributed::{Crew, World};
use cmd::encoders::Encoders;
use cmd::eval::SplitResult;
use cmd::signals::Signals;
use cmd::train::{Session, Sink, SinkError, TrainRecord};
use common::Workspace;

/// What came in, for whoever holds the other end.
#[derive(Clone, Default)]
struct Figures(Rc<RefCell<Seen>>);

#[derive(Debug, Default, PartialEq)]
struct Seen {
    losses: Vec<f64>,
    evaluated: Vec<u64>,
}

impl Sink for Figures {
    fn rewind(&mut self, _step: u64, _evaluated: bool) -> Result<(), SinkError> {
        Ok(())
    }

    fn train(&mut self, _step: u64, record: &TrainRecord) -> Result<(), SinkError> {
        self.0.borrow_mut().losses.push(record.loss);
        Ok(())
    }

    fn eval(&mut self, step: u64, _result: &SplitResult) -> Result<(), SinkError> {
        self.0.borrow_mut().evaluated.push(step);
        Ok(())
    }
}

#[test]
fn several_trainings_share_their_encoders() {
    let workspace = Workspace::new(8);
    let config = Config::load(&workspace.path("tiny.toml"), &[], Needs::Encoders).expect("a configuration");
    let dataset = Dataset::load(&config.data).expect("a data set");
    let encoders = Encoders::load(&config.encoders, tch::Device::Cpu).expect("encoders");
    let (world, signals) = (World::alone(), Signals::default());
    let crew = Crew { world: &world, signals: &signals };
    let mut all = Vec::new();
    for seed in [0, 0, 1] {
        let mut recipe = config.recipe();
        recipe.train.seed = seed;
        let mut session = Session::new(recipe, &dataset, &encoders, crew).expect("a session");
        let figures = Figures::default();
        session.add_sink(figures.clone());
        session.train().expect("trained");
        assert!(session.is_finished() && session.best().is_some());
        all.push(figures.0.take());
    }
    assert_eq!(all[0].losses.len(), 12);
    assert_eq!(all[0].evaluated, [6, 12]);
    assert_eq!(all[0], all[1]);
    assert_ne!(all[0].losses, all[2].losses);
    assert!(!workspace.path("runs").exists());

    // The program's run of the same configuration has the same losses.
    workspace.ok(&["train", "--config", "tiny.toml", "--name", "a"]);
    let losses: Vec<f64> = workspace.metrics("a").iter().filter_map(|line| line["loss"].as_f64()).collect();
    assert_eq!(losses.len(), 12);
    assert!(all[0].losses.iter().zip(&losses).all(|(ours, theirs)| (ours - theirs).abs() < 1e-5 * theirs));

    // And a session goes on from what the program left.
    let mut recipe = config.recipe();
    recipe.train.steps = 14;
    let mut session = Session::new(recipe, &dataset, &encoders, crew).expect("a session");
    session
        .restore(&RunDir::open(&workspace.path("runs/a"), &workspace.path("runs")).expect("a run"))
        .expect("restored");
    session.train().expect("trained");
    assert_eq!(session.state().step, 14);
}
