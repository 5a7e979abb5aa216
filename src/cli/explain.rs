//! `cmd explain`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{ImageFormat, Rgb, RgbImage, imageops};
use serde_json::{Value, json};

use super::error::Error;
use super::print;
use super::scoring::embedded_once;
use super::trained::{Trained, TrainedArgs, name_of_run};
use crate::checkpoint::RunDir;
use crate::data::{Clip, Content, Dataset, Medium, PictureForm, Split};
use crate::distributed::{Crew, World};
use crate::eval::{Attention, Embedder, Embeddings, EvalError, EvalSet, Look, nearest_to, spread};
use crate::model::{CmdModel, FusionEncoder};
use crate::report::{Explained, Neighbour, Seen, explained_page, layer_bars, overlay};
use crate::search::{EFFORT, Hit, Index};
use crate::signals::Signals;

/// Shows what a model makes of utterances: where they look in a picture, as a whole and over time or keyword by keyword, what is nearest to them, and what each layer
/// of the speech encoder counts.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A spoken utterance. Repeatable.
    #[arg(long, value_name = "FILE", required_unless_present = "split")]
    speech: Vec<PathBuf>,
    /// The picture that it looks at: one for all utterances, or one for each; by default the nearest of --index. Repeatable.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["split", "index"])]
    image: Vec<PathBuf>,
    /// An index in which what is nearest is looked for.
    #[arg(long, value_name = "IDX", conflicts_with = "split")]
    index: Option<PathBuf>,
    /// A split of the data instead: utterances spread evenly over it, with their own pictures.
    #[arg(long, value_name = "SPLIT", conflicts_with_all = ["speech", "image"])]
    split: Option<String>,
    /// Utterances of the split that are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Another run or checkpoint on the same encoders, shown beside: one without CMD, for instance.
    #[arg(long, value_name = "DIR_OR_FILE")]
    beside: Option<PathBuf>,
    /// Parts of an utterance over time; a cascaded head shows its keywords instead.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    parts: u32,
    /// Pictures, and utterances, that are nearest.
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Folder for the page, its figures as JSON, and the pictures.
    #[arg(long, value_name = "DIR", default_value = "explained")]
    out: PathBuf,
    #[command(flatten)]
    trained: TrainedArgs,
}

const EXAMPLES: &str = "Examples:
  cmd explain --split test
  cmd explain --checkpoint runs/cmd --beside runs/no-cmd --split test --count 10
  cmd explain --speech question.wav --image dog.jpg
  cmd explain --speech question.wav --index photos.idx --out why";

/// Pixels of the side of a picture that is shown.
const SIDE: u32 = 224;
/// Pixels between pictures.
const GAP: u32 = 8;

/// A model by the name that it is shown under.
struct Named<'a> {
    name: String,
    model: &'a CmdModel,
    /// Asks where the model has none.
    unlearned: FusionEncoder,
}

/// An utterance with its picture and what is near to it.
struct Asked {
    speech: PathBuf,
    said: Option<String>,
    image: PathBuf,
    neighbours: Vec<Neighbour>,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    let _all_along = signals.nothing_to_lose()?;
    let (utterances, images) = (args.speech.len(), args.image.len());
    if images > 1 && images != utterances {
        return Err(Error::Usage(format!(
            "--image names {images} pictures for {utterances} utterances; name one for all, or one for each"
        )));
    }
    let index = args.index.as_deref().map(Index::open).transpose()?;
    let trained = args.trained.load(index.as_ref().map(Index::checkpoint))?;
    let other = args.other(&trained)?;
    let mut models = vec![Named::new(trained.checkpoint.path(), &trained.model)];
    if let Some((path, model)) = &other {
        models.push(Named::new(path, model));
    }
    if models.len() > 1 && models[0].name == models[1].name {
        models[1].name += " (beside)";
    }
    let asked = match (&args.split, &index) {
        (Some(split), _) => args.of_split(split, &trained, &signals)?,
        (None, index) => args.of_files(&trained, index.as_ref())?,
    };
    let explained: Vec<Explained> =
        asked.into_iter().map(|asked| args.explain(asked, &trained, &models)).collect::<Result<_, _>>()?;
    args.write(&explained, &models, trained.config.data.max_megapixels)
}

impl<'a> Named<'a> {
    /// Of the checkpoint at `path`.
    fn new(path: &Path, model: &'a CmdModel) -> Self {
        let name = name_of_run(path);
        let unlearned = FusionEncoder::unlearned(model.config().width, model.inverse_tau().device());
        Self { name, model, unlearned }
    }
}

impl Args {
    fn other(&self, trained: &Trained) -> Result<Option<(PathBuf, CmdModel)>, Error> {
        let Some(named) = &self.beside else { return Ok(None) };
        let (checkpoint, _) = RunDir::find(named, self.trained.output())?;
        let mut model = checkpoint.load(trained.encoders.device())?;
        checkpoint.connect(&mut model, &trained.encoders)?;
        Ok(Some((checkpoint.path().to_owned(), model)))
    }

    fn of_files(&self, trained: &Trained, index: Option<&Index>) -> Result<Vec<Asked>, Error> {
        if let (Some(index), Some(folder)) = (index, &self.index) {
            trained.check_index(index, folder)?;
        }
        let embedder = trained.embedder();
        let mut all = Vec::new();
        for (number, speech) in self.speech.iter().enumerate() {
            let content = Content::read(speech, Medium::Speech, embedder.audio_form(), embedder.picture_form())?;
            let row = embedder.rows(&[&content], false)?.remove(0);
            let mut neighbours = Vec::new();
            for medium in [Medium::Image, Medium::Speech] {
                let Some(index) = index else { continue };
                let hits = index.search(&row, medium, self.k as usize, Some(EFFORT))?;
                neighbours.extend(hits.iter().map(neighbour));
            }
            let named = self.image.get(number).or(self.image.first()).cloned();
            let nearest = neighbours.iter().find(|near| near.medium == Medium::Image).map(|near| near.file.clone());
            let image = named.or(nearest).ok_or_else(|| {
                Error::Usage("the index holds no pictures; name the one that is looked at with --image".to_owned())
            })?;
            all.push(Asked { speech: speech.clone(), said: None, image, neighbours });
        }
        Ok(all)
    }

    fn of_split(&self, name: &str, trained: &Trained, signals: &Signals) -> Result<Vec<Asked>, Error> {
        let split = Arc::new(Dataset::load(&trained.config.data)?.split(name)?);
        let world = World::alone();
        let crew = Crew { world: &world, signals };
        let mut set = EvalSet::new(&split, &trained.encoders, &embedded_once(&trained.config), crew, None)?;
        let embeddings = set.embed(&trained.model)?;
        let Embeddings { speech, images, utterances, gallery, .. } = &embeddings;
        let rows = spread(utterances.len(), self.count as usize);
        let k = self.k as usize;
        let pictures = nearest_to(&rows, speech, images, k).map_err(EvalError::from)?;
        // Itself is the nearest utterance.
        let sounds = nearest_to(&rows, speech, speech, 1 + k).map_err(EvalError::from)?;
        let mut all = Vec::new();
        for ((row, pictures), sounds) in rows.into_iter().zip(pictures).zip(sounds) {
            let utterance = &split.utterances[utterances[row]];
            let own = utterance.image;
            let pictures = pictures.into_iter().map(|(place, score)| picture_near(&split, gallery[place], own, score));
            let sounds = sounds.into_iter().filter(|(place, _)| *place != row).take(k);
            let sounds = sounds.map(|(place, score)| sound_near(&split, utterances[place], own, score));
            let neighbours = pictures.chain(sounds).collect();
            let image = split.images[own].path.to_path_buf();
            let said = utterance.text.as_ref().map(ToString::to_string);
            all.push(Asked { speech: utterance.audio.to_path_buf(), said, image, neighbours });
        }
        Ok(all)
    }

    fn explain(&self, asked: Asked, trained: &Trained, models: &[Named]) -> Result<Explained, Error> {
        let Asked { speech, said, image, neighbours } = asked;
        let form = trained.embedder();
        let sound = form.audio_form().read(&speech, Clip::Start(form.audio_form().max_samples))?;
        let looked_at = form.picture_form().read(&image)?;
        let mut seen = Vec::new();
        for (number, Named { model, unlearned, .. }) in models.iter().enumerate() {
            let embedder = Embedder::new(&trained.encoders, model, &trained.config.features());
            let fusion = model.fusion().unwrap_or(unlearned);
            let look = embedder.look(fusion, &sound, &looked_at, self.parts as usize)?;
            seen.push(Seen { model: number, learned: model.fusion().is_some(), look });
        }
        let picture = PictureForm::new(SIDE, trained.config.data.max_megapixels).read(&image)?;
        Ok(Explained { speech, said, image, picture, seen, neighbours })
    }

    fn write(&self, explained: &[Explained], models: &[Named], max_megapixels: i64) -> Result<(), Error> {
        let mut named = Vec::new();
        for model in models {
            let weights = model.model.speech().layer_weights().map_err(EvalError::from)?;
            named.push((model.name.clone(), weights));
        }
        let page = explained_page(explained, &named, max_megapixels)?;
        let bars = layer_bars(&named.iter().map(|(_, weights)| weights.clone()).collect::<Vec<_>>())?;
        let models: Vec<Value> =
            named.iter().map(|(name, weights)| json!({ "name": name, "layer_weights": weights })).collect();
        let utterances: Vec<Value> = explained.iter().map(told).collect();
        let told = format!("{:#}\n", json!({ "format": 1, "models": models, "utterances": utterances }));

        std::fs::create_dir_all(&self.out).map_err(Error::output(&self.out))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = self.out.join(name);
            std::fs::write(&path, bytes).map_err(Error::output(&path))
        };
        for (number, one) in (1..).zip(explained) {
            write(&format!("{number}.png"), &png(&whole_row(one))?)?;
            write(&format!("{number}-time.png"), &png(&over_time(one))?)?;
        }
        write("layers.svg", bars.as_bytes())?;
        write("explained.json", told.as_bytes())?;
        write("explained.html", page.as_bytes())?;
        print(&format!("{}\n", self.out.join("explained.html").display()))
    }
}

fn neighbour(hit: &Hit) -> Neighbour {
    let said = hit.said.map(str::to_owned);
    Neighbour { file: hit.file.to_owned(), medium: hit.medium, said, score: hit.score, right: None }
}

fn picture_near(split: &Split, image: usize, own: usize, score: f32) -> Neighbour {
    let file = split.images[image].path.to_path_buf();
    Neighbour { file, medium: Medium::Image, said: None, score, right: Some(image == own) }
}

fn sound_near(split: &Split, utterance: usize, own: usize, score: f32) -> Neighbour {
    let utterance = &split.utterances[utterance];
    let said = utterance.text.as_ref().map(ToString::to_string);
    let right = Some(utterance.image == own);
    Neighbour { file: utterance.audio.to_path_buf(), medium: Medium::Speech, said, score, right }
}

/// An utterance's figures.
fn told(one: &Explained) -> Value {
    let attention = |attention: &Attention| json!({ "grid": attention.grid, "weights": attention.weights, "relative_entropy": attention.relative_entropy() });
    let look = |Look { whole, parts }: &Look| {
        let parts = parts
            .iter()
            .map(|part| json!({ "word": part.word, "from": part.from, "to": part.to, "attention": attention(&part.attention) }));
        json!({ "whole": attention(whole), "parts": parts.collect::<Vec<_>>() })
    };
    let seen =
        one.seen.iter().map(|seen| json!({ "model": seen.model, "learned": seen.learned, "look": look(&seen.look) }));
    let near = one.neighbours.iter().map(|near| {
        json!({ "file": near.file, "medium": near.medium, "said": near.said, "score": near.score, "right": near.right })
    });
    json!({
        "speech": one.speech,
        "said": one.said,
        "image": one.image,
        "seen": seen.collect::<Vec<_>>(),
        "neighbours": near.collect::<Vec<_>>(),
    })
}

/// The picture, and beside it where each model looks.
fn whole_row(one: &Explained) -> RgbImage {
    let overlays = one.seen.iter().map(|seen| overlay(&one.picture, &seen.look.whole));
    grid(&[[one.picture.to_rgb()].into_iter().chain(overlays).collect()])
}

/// A row for each model, a column for each part.
fn over_time(one: &Explained) -> RgbImage {
    let row = |seen: &Seen| seen.look.parts.iter().map(|part| overlay(&one.picture, &part.attention)).collect();
    grid(&one.seen.iter().map(row).collect::<Vec<Vec<RgbImage>>>())
}

fn grid(rows: &[Vec<RgbImage>]) -> RgbImage {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let cell = SIDE + GAP;
    let mut sheet = RgbImage::from_pixel(columns * cell + GAP, rows.len() as u32 * cell + GAP, Rgb([255; 3]));
    for (top, row) in (0..).zip(rows) {
        for (left, picture) in (0..).zip(row) {
            let place = |number: u32| i64::from(GAP + number * cell);
            imageops::replace(&mut sheet, picture, place(left), place(top));
        }
    }
    sheet
}

fn png(picture: &RgbImage) -> Result<Vec<u8>, Error> {
    let mut png = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut png, ImageFormat::Png)
        .map_err(|error| Error::output("a picture")(std::io::Error::other(error)))?;
    Ok(png.into_inner())
}
