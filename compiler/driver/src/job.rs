//! A training run put together: source, options, data, program, trainer.

use std::path::PathBuf;

use ffc_compiler::recipe::{LookAhead, Options, Precision};
use ffc_data::{Dataset, LoadOptions};
use ffc_ir::kernel::Program;
use ffc_runtime::checkpoint;

use crate::augmentation::Augmentation;
use crate::batches;
use crate::compile::compile;
use crate::data;
use crate::description::{self, Description};
use crate::initial::Init;
use crate::options::TrainingArgs;
use crate::preprocessing;
use crate::source::{self, Origin, Run, Source};
use crate::trainer::Trainer;
use crate::training::{LayerOrder, Plan};
use crate::{Failure, network::Network};

/// Epochs where nobody says otherwise.
const DEFAULT_EPOCHS: usize = 20;
/// Growth of lambda per epoch with `--look-ahead hop`, where neither recipe nor options have one.
const HOP_LAMBDA_STEP: f32 = 0.1;
/// What a checkpoint calls the best accuracy so far.
pub const BEST: &str = "best_accuracy";
/// Seed where nobody says otherwise.
const DEFAULT_SEED: u64 = 1;

/// See the [module documentation](self).
pub struct Job {
    /// The network.
    pub network: Network,
    /// What is kept about the run.
    pub description: Description,
    /// The program.
    pub program: Program,
    /// What trains.
    pub trainer: Trainer,
    /// The numbers of the run.
    pub plan: Plan,
    /// The best accuracy of the epochs that were done before, of a run that goes on.
    pub best: f64,
}

/// What a command says beside the training options.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// Data set.
    pub data: PathBuf,
    /// Limits of the data.
    pub load: LoadOptions,
    /// Worker threads, 0 for all cores.
    pub threads: usize,
    /// Go on from this checkpoint.
    pub resume: Option<PathBuf>,
}

/// The options of a run without preprocessing, its schedule and where weights start.
///
/// # Errors
/// When options make no sense together.
pub fn resolve(source: &Source, args: &TrainingArgs) -> Result<Description, Failure> {
    let recipe = args.recipe()?;
    let own = source.description.as_ref();
    let mut description = match own {
        // A checkpoint or artifact brings its own options; naming another recipe starts from that.
        Some(own) if args.recipe.as_ref().is_none_or(|name| *name == own.recipe) => own.clone(),
        _ => Description {
            version: description::VERSION,
            recipe: recipe.name.to_string(),
            options: recipe.options(),
            schedule: recipe.schedule,
            epochs: DEFAULT_EPOCHS,
            order: LayerOrder::Together,
            seed: DEFAULT_SEED,
            augmentation: Augmentation::default(),
            class_names: Vec::new(),
            interface: source.network.interface.clone(),
        },
    };
    if let Some(own) = own {
        // Part of the model, not of the recipe.
        description.options.preprocessing = own.options.preprocessing.clone();
        description.options.normalization = own.options.normalization;
    } else if init(source, args) == Init::Keep {
        description.options.normalization = source.normalization()?;
    }
    let Description { options, schedule, epochs, order, seed, augmentation, .. } = &mut description;
    args.apply(options, schedule)?;
    if options.look_ahead == LookAhead::Hop && schedule.lambda_step == 0.0 && args.lambda_step.is_none() {
        schedule.lambda_step = HOP_LAMBDA_STEP;
    }
    *epochs = args.epochs.unwrap_or(*epochs);
    *order = args.schedule.unwrap_or(*order);
    *seed = args.seed.unwrap_or(*seed);
    augmentation.shift = args.shift.unwrap_or(augmentation.shift);
    augmentation.flip = args.flip.unwrap_or(augmentation.flip);
    Ok(description)
}

/// Where weights start.
pub fn init(source: &Source, args: &TrainingArgs) -> Init {
    args.init.unwrap_or(match source.origin {
        Origin::Onnx => Init::Random,
        Origin::Checkpoint(_) | Origin::Artifact(_) => Init::Keep,
    })
}

/// Puts a run and its data together.
///
/// # Errors
/// When network, data and options do not fit together.
pub fn prepare(
    mut source: Source,
    args: &TrainingArgs,
    setting: &Setting,
) -> Result<(Job, Dataset), Failure> {
    let mut description = resolve(&source, args)?;
    let init = init(&source, args);
    if init == Init::Random {
        // Not even heads that the file has.
        source.network.weights = Vec::new();
    }
    let data = data::load(&setting.data, &setting.load, &source.network)?;
    data::check_classes(&description.class_names, &data, &setting.data)?;
    description.class_names.clone_from(&data.class_names);
    if source.description.is_none() {
        description.options.preprocessing = preprocessing::find(args, &source.network, &data)?;
    }
    check_input(&description.options, &data)?;
    check_fixed(&source, &description.options)?;
    let augmenter = description.augmentation.of(&data, &setting.data, description.seed)?;
    if setting.resume.is_none() && init == Init::Keep {
        keep_weights(&mut source)?;
    }
    // The modules that it was made from go at once.
    let program = compile(&source.network.module, &description.options)?.program;
    let run = Run {
        program: &program,
        options: &description.options,
        threads: setting.threads,
        seed: description.seed,
        init,
    };
    let mut trainer = match &source.origin {
        Origin::Artifact(bytes) => {
            let mut trainer = Trainer::Compiled(Box::new(run.load(bytes)?));
            if init == Init::Random {
                run.initialize(&mut trainer, &source.network)?;
            }
            trainer
        }
        _ => run.trainer(&source.network)?,
    };
    let (mut done, mut best) = (0, 0.0);
    if let (Some(folder), Trainer::Compiled(session)) = (&setting.resume, &mut trainer) {
        let kept = checkpoint::load(folder, session)?;
        if session.seed() != description.seed {
            let (own, given) = (session.seed(), description.seed);
            return Err(Failure::usage(format!("the run was started with `--seed {own}`, not {given}"))
                .with_help("leave out `--seed`, or start a new run without `--resume`"));
        }
        done = session.epoch() as usize;
        best = kept.get(BEST).and_then(|best| best.parse().ok()).unwrap_or(0.0);
    }
    let batch = description.options.batch;
    let plan = Plan {
        schedule: description.schedule,
        epochs: description.epochs,
        done,
        batch,
        seed: description.seed,
        augmenter,
        beside: batches::beside(trainer.threads(), &data.train, batch, augmenter.is_some()),
        order: description.order,
        layers: program.trained_layers.len(),
    };
    // They are in the trainer now.
    source.network.weights = Vec::new();
    Ok((Job { network: source.network, description, program, trainer, plan, best }, data))
}

/// Refuses options that a compiled artifact can no longer follow.
///
/// # Errors
/// With the first of them.
pub fn check_fixed(source: &Source, options: &Options) -> Result<(), Failure> {
    let (Origin::Artifact(_), Some(own)) = (&source.origin, &source.description) else { return Ok(()) };
    let own = &own.options;
    let differs = [
        ("batch-size", options.batch != own.batch),
        ("momentum", options.momentum != own.momentum),
        ("classifier-rate", options.classifier_rate != own.classifier_rate),
        ("deeper-rate", options.deeper_rate != own.deeper_rate),
        ("rates", options.rates != own.rates),
        ("grid", options.grid != own.grid),
        ("unit", options.unit != own.unit),
        ("look-ahead", options.look_ahead != own.look_ahead),
        ("normalization", options.normalization != own.normalization),
        ("predict", options.predict != own.predict),
        ("precision", options.precision != own.precision),
        ("recipe", options.head != own.head || options.range_limit != own.range_limit),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        None => Ok(()),
        Some((name, _)) => Err(Failure::usage(format!("`--{name}` is compiled into the artifact"))
            .with_help("compile the network again with this option, or leave it out")),
    }
}

/// A checkpoint's weights become the network's.
fn keep_weights(source: &mut Source) -> Result<(), Failure> {
    if let (Origin::Checkpoint(folder), Some(description)) = (&source.origin, &source.description) {
        let session = source::restore(folder, description, &source.network)?;
        source.network.weights = source::weights_of(&session);
    }
    Ok(())
}

/// Raw data of the kind that the program was made for.
pub fn check_input(options: &Options, data: &Dataset) -> Result<(), Failure> {
    let given = data.train.features.type_name();
    let wanted = options.preprocessing.input.name();
    if given == wanted {
        return Ok(());
    }
    Err(Failure::new(format!("the data is {given}, the network was trained on {wanted}"))
        .with_help("use data of the kind it was trained on"))
}

/// A note for people where an option has no effect.
pub fn checkpoint_precision(options: &Options) -> Result<(), Failure> {
    if options.precision == Precision::Float {
        return Err(Failure::usage(
            "checkpoints hold INT8 training state, and this run trains in single precision",
        )
        .with_help("leave out `--checkpoint`, or train with `--precision int8`"));
    }
    Ok(())
}
