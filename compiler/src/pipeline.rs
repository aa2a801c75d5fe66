//! The one list of passes, and what runs them.
//!
//! Two modules come out of an imported network: one that trains ([`TRAIN`]) and one that predicts ([`INFER`]). They
//! share parameters by name. The order of passes is fixed, because each needs what earlier ones made:
//!
//! 1. `cut-layers`: heads and updates belong to layers, so there must be layers;
//! 2. `insert-preparation`: raw samples become the first activation, labels overlaid where the recipe wants them;
//! 3. `insert-normalization`: changes what a layer's activation is, which heads and gradients depend on;
//! 4. `join-blocks` makes one layer of several, which stay normalised, before layers get an objective;
//! 5. `insert-goodness-heads` gives every layer its error signal (or `insert-scores` the network its prediction);
//! 6. `insert-look-ahead` adds to the error signals, before gradients are taken from them;
//! 7. `derive-updates`: gradients and optimizer;
//! 8. `insert-quantizers` comes late: whatever crosses a contraction by then, in any region, is quantized by one rule;
//! 9. `eliminate-dead` last.

use ffc_ir::module::{Module, Phase};
use ffc_ir::verify;

use crate::passes;
use crate::recipe::{Options, Precision};

/// A transformation of modules.
pub struct Pass {
    /// Name on the command line.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// Whether these options want it.
    pub wanted: fn(&Options) -> bool,
    /// The transformation; the error is a reason for people.
    pub run: fn(Module, &Options) -> Result<Module, String>,
}

fn always(_: &Options) -> bool {
    true
}

macro_rules! pass {
    ($name:literal, $module:ident, $wanted:expr, $description:literal) => {
        Pass { name: $name, description: $description, wanted: $wanted, run: passes::$module::run }
    };
}

const CUT: Pass = pass!("cut-layers", cut_layers, always, "one layer per contraction");
const PREPARE: Pass =
    pass!("insert-preparation", insert_preparation, always, "preprocess raw samples, overlay labels");
const NORMALIZE: Pass = pass!(
    "insert-normalization",
    insert_normalization,
    |options| options.normalization == crate::recipe::Normalization::Rms,
    "divide each row by its root mean square"
);
const BLOCKS: Pass = pass!(
    "join-blocks",
    join_blocks,
    |options| options.unit == crate::recipe::Unit::Block,
    "one layer per residual block"
);
const HEADS: Pass =
    pass!("insert-goodness-heads", insert_goodness_heads, always, "scores, loss and error signal per layer");
const SCORES: Pass = pass!("insert-scores", insert_scores, always, "the network's prediction");
const LOOK_AHEAD: Pass = pass!(
    "insert-look-ahead",
    insert_look_ahead,
    |options| options.look_ahead != crate::recipe::LookAhead::Off,
    "add what later layers' objectives say"
);
const UPDATES: Pass = pass!("derive-updates", derive_updates, always, "gradients and optimizer per layer");
const QUANTIZE: Pass = pass!(
    "insert-quantizers",
    insert_quantizers,
    |options| options.precision == Precision::Int8,
    "INT8 operands for every contraction"
);
const DEAD: Pass = pass!("eliminate-dead", eliminate_dead, always, "drop what nothing uses");

/// The passes that make the training program.
pub const TRAIN: &[Pass] = &[CUT, PREPARE, NORMALIZE, BLOCKS, HEADS, LOOK_AHEAD, UPDATES, QUANTIZE, DEAD];

/// The passes that make the prediction.
pub const INFER: &[Pass] = &[CUT, PREPARE, NORMALIZE, BLOCKS, SCORES, QUANTIZE, DEAD];

/// Every pass once, in the order in which they run.
pub fn all() -> impl Iterator<Item = &'static Pass> {
    let only_infer = |pass: &&Pass| TRAIN.iter().all(|other| other.name != pass.name);
    TRAIN.iter().chain(INFER.iter().filter(only_infer))
}

/// Why a module could not be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassError {
    /// The pass at which it stopped.
    pub pass: &'static str,
    /// The reason.
    pub reason: String,
}

impl std::fmt::Display for PassError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pass `{}`: {}", self.pass, self.reason)
    }
}

impl std::error::Error for PassError {}

/// Runs the passes that `options` want, verifies the module after each, and shows it to `observe`.
///
/// # Errors
/// When a pass refuses the module, or leaves one that does not verify (a bug in the pass).
pub fn run(
    module: Module,
    passes: &[Pass],
    options: &Options,
    observe: impl FnMut(&Pass, &Module),
) -> Result<Module, PassError> {
    run_all(module, passes.iter().filter(|pass| (pass.wanted)(options)), options, observe)
}

/// Runs passes whether or not `options` want them, otherwise as [`run`].
///
/// # Errors
/// As there.
pub fn run_all<'p>(
    module: Module,
    passes: impl IntoIterator<Item = &'p Pass>,
    options: &Options,
    mut observe: impl FnMut(&Pass, &Module),
) -> Result<Module, PassError> {
    let mut module = module;
    for pass in passes {
        let error = |reason| PassError { pass: pass.name, reason };
        module = (pass.run)(module, options).map_err(error)?;
        check(&module).map_err(|reason| error(format!("left a module that does not verify: {reason}")))?;
        observe(pass, &module);
    }
    Ok(module)
}

fn check(module: &Module) -> Result<(), String> {
    match verify::verify(module) {
        Ok(_) => Ok(()),
        Err(diagnostics) => Err(diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    }
}

/// The training module and the predicting module of an imported network.
///
/// # Errors
/// As [`run`].
pub fn compile(imported: &Module, options: &Options) -> Result<(Module, Module), PassError> {
    if imported.phase != Phase::Imported {
        return Err(PassError {
            pass: CUT.name,
            reason: "the module has been through passes already".to_string(),
        });
    }
    let train = run(imported.clone(), TRAIN, options, |_, _| {})?;
    let infer = run(imported.clone(), INFER, options, |_, _| {})?;
    Ok((train, infer))
}
