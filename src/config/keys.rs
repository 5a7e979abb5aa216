//! Every key with its description: what `--print-config` shows and what a mistyped key is compared with.

/// Key, description, and an example where the key has no default.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) example: Option<&'static str>,
}

const fn key(name: &'static str, about: &'static str) -> Key {
    Key { name, about, example: None }
}

const fn unset(name: &'static str, about: &'static str, example: &'static str) -> Key {
    Key { name, about, example: Some(example) }
}

/// Keys whose values are paths.
pub(super) const PATHS: [&str; 6] =
    ["data.path", "data.root", "data.images", "data.karpathy", "encoders.speech.path", "encoders.image.path"];

/// All keys, in the order in which they are shown.
pub(super) const KEYS: &[Key] = &[
    key(
        "data.kind",
        "Form of the data set: \"flickr8k\", \"spokencoco\" (both as downloaded) or \"manifest\" (JSON Lines, one image a line).",
    ),
    unset(
        "data.name",
        "Name of the data set in results; by default its kind, or the name of the manifest's folder.",
        "\"demo\"",
    ),
    unset(
        "data.path",
        "The manifest; required for that kind. Paths in this file are relative to this file.",
        "\"manifest.jsonl\"",
    ),
    unset(
        "data.root",
        "Folder of the data set, required but for a manifest; there it is where paths start from, by default the manifest's own.",
        "\".\"",
    ),
    unset("data.images", "Folder of the images, if they are not in data.root under a usual name.", "\"coco\""),
    unset(
        "data.karpathy",
        "The Karpathy split of COCO (dataset_coco.json), if it is not in data.root.",
        "\"dataset_coco.json\"",
    ),
    unset(
        "data.on_error",
        "A file that cannot be read: \"skip\" (count and name it, go on) or \"fail\". By default training skips, evaluation fails.",
        "\"skip\"",
    ),
    key("data.workers", "Threads that read and decode; 0: one a core."),
    key("data.prefetch", "Batches that are read ahead."),
    key("audio.max_seconds", "Training uses a random window of at most this length (SpeechCLIP: 102,400 samples)."),
    key(
        "audio.eval_max_seconds",
        "Evaluation uses whole utterances; longer ones are cut to this with a warning, to bound memory.",
    ),
    key(
        "audio.min_seconds",
        "Shorter utterances are named by `cmd data check`; training and evaluation use them all the same.",
    ),
    unset(
        "encoders.speech.path",
        "TorchScript file of the frozen speech encoder (HuBERT-Large); required.",
        "\"hubert.pt\"",
    ),
    key(
        "encoders.speech.batch_size",
        "Utterances in one forward of the frozen encoder; bounds memory, changes no result.",
    ),
    key(
        "encoders.speech.cache",
        "Keep the hidden states of the training data in memory, computed once: for small sets of short utterances.",
    ),
    unset(
        "encoders.image.path",
        "TorchScript file of the frozen image encoder (CLIP ViT-L/14); required.",
        "\"clip.pt\"",
    ),
    key("encoders.image.batch_size", "Images in one forward of the frozen encoder."),
    key("encoders.image.cache", "Keep the image features of the training data in memory, computed once."),
    key("speech.heads", "Attention heads of the speech head's transformer layer."),
    key("speech.dropout", "Dropout of the speech head's transformer layer."),
    key("speech.normalize_layers", "Layer-normalise each hidden state before the weighted sum."),
    key("fusion.query_norm", "\"layer_norm\" (shared by query and patches) or \"none\" (Eq. 1 to the letter)."),
    key("noise.ratio", "Part of each image's patches that is replaced (Section 3.1: 30 %)."),
    key("noise.donor_position", "Place of the replacing patch in its own image: \"random\" or \"same\"."),
    key("loss.same_image", "Other utterances of the same image in a batch: \"positives\" (1/n each) or \"masked\"."),
    key(
        "cmd.alpha",
        "Weight of L_cmd in Eq. 7; 0 trains without denoising. The best value differs by data set (Figure 2).",
    ),
    key(
        "cmd.pairing",
        "\"paired\": an image is denoised with its own speech (Eq. 6); \"all\": with every speech of the batch.",
    ),
    key("optim.lr", "Learning rate after warm-up."),
    key("optim.final_lr", "Learning rate of the last step; the way there is linear."),
    key("optim.warmup_steps", "Steps of linear warm-up."),
    key("optim.weight_decay", "L2 weight decay of Adam."),
    key("optim.betas", "Decay of Adam's moments."),
    key("optim.eps", "Epsilon of Adam."),
    key("train.steps", "Updates."),
    key("train.batch_size", "Speech-image pairs in the global batch."),
    key("train.seed", "Seed of every draw: first values, order, crops, noise, dropout."),
    key("train.grad_clip", "Largest norm of the gradient; 0: no limit."),
    key("train.checkpoint_every", "Steps between checkpoints."),
    key("train.eval_every", "Steps between evaluations on eval.split; the best mean R@1 is kept."),
    key("train.keep", "Newest checkpoints that are kept, beside the best."),
    key("eval.split", "Split that chooses the best checkpoint (\"dev\" and \"val\" mean the same)."),
    key(
        "distributed.timeout_seconds",
        "How long a process waits for the others, at the start and in every step, before it gives up.",
    ),
    key("log.every", "Steps between lines of metrics.jsonl."),
];
