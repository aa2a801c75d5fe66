//! `ffc compile`: a training program for a target, without running it.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use ffc_codegen::{Backend, CodegenError, Target};
use ffc_compiler::recipe::Precision;
use ffc_cpu::{CpuBackend, Embedding, object_targets};
use ffc_data::LoadOptions;
use ffc_ir::kernel::Program;
use ffc_runtime::{WEIGHTS_ATTACHMENT, pack_state};

use super::print_line;
use crate::compile::{self, Compiled, assemble, preprocessing_constants};
use crate::description::Description;
use crate::initial::initial_values;
use crate::options::TrainingArgs;
use crate::preprocessing;
use crate::source::{Origin, Source};
use crate::{Failure, data, dot, files, job, weights};

/// Arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  ffc compile examples/mnist_mlp.onnx -o mlp.ffc --data examples/mnist")]
pub struct Compile {
    /// ONNX file or checkpoint folder
    pub model: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value = "artifact")]
    pub emit: Emit,
    /// What machines to compile for (`ffc targets`); the file has code for each variant
    #[arg(long, default_value = "native")]
    pub target: String,
    /// Data set whose training split gives the preprocessing
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Training options.
    #[command(flatten)]
    pub options: TrainingArgs,
}

/// What can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// One `.ffc` file that the runtime trains with.
    Artifact,
    /// A relocatable file (`NAME.o`) that trains without a runtime, and a C header (`NAME.h`) beside it.
    Object,
    /// The layer IR of training and prediction, and the kernel IR.
    Ir,
    /// Cranelift's IR, for each variant of the target that goes through it.
    Clif,
    /// Assembly, for each variant of the target.
    Asm,
    /// The kernels and what flows between them, for Graphviz.
    Dot,
}

/// Runs the command.
///
/// # Errors
/// Whatever stops it.
pub fn run(args: Compile) -> Result<(), Failure> {
    files::check_writable(&args.output)?;
    let mut targets = compile::targets(&args.target)?;
    if args.emit == Emit::Object {
        check_object(&args.output)?;
        targets = object_targets(targets);
    }
    let source = Source::open(&args.model)?;
    let flags = args.options.clone().with_config()?;
    let mut description = job::resolve(&source, &flags)?;
    if description.options.precision == Precision::Float {
        return Err(Failure::new("single precision is not compiled; it runs on the reference executor")
            .with_help("leave out `--precision float`, or use `ffc train --precision float`"));
    }
    if let (Some(path), None) = (&args.data, &source.description) {
        let load = LoadOptions { cache: data::cache_folder(), ..LoadOptions::default() };
        let data = data::load(path, &load, &source.network)?;
        description.options.preprocessing = preprocessing::find(&flags, &source.network, &data)?;
        description.augmentation.of(&data, path, description.seed)?;
    }
    let compiled = compile::compile(&source.network.module, &description.options)?;
    let bytes = match args.emit {
        Emit::Artifact => artifact(&source, &flags, &description, &compiled, &targets)?,
        Emit::Object => {
            let object = object(&args.output, &source, &flags, &description, &compiled, &targets)?;
            write(&args.output.with_extension(HEADER), object.header.as_bytes())?;
            object.bytes
        }
        Emit::Ir => format!("{}\n{}\n{}", compiled.train, compiled.infer, compiled.program).into_bytes(),
        Emit::Clif => clif(&compiled.program, &targets)?.into_bytes(),
        Emit::Asm => {
            texts(&compile::backends(&targets)?, |backend| backend.asm(&compiled.program))?.into_bytes()
        }
        Emit::Dot => dot::graph(&compiled.program).into_bytes(),
    };
    write(&args.output, &bytes)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    files::write(path, bytes)?;
    print_line(&format!("wrote {} ({} bytes)", path.display(), bytes.len()))
}

fn clif(program: &Program, targets: &[Target]) -> Result<String, Failure> {
    let mut backends = compile::backends(targets)?;
    // Where none goes through Cranelift, the first says so.
    if backends.iter().any(CpuBackend::uses_cranelift) {
        backends.retain(CpuBackend::uses_cranelift);
    }
    texts(&backends, |backend| backend.clif(program))
}

/// The text of each variant below its name.
fn texts(
    backends: &[CpuBackend],
    text: impl Fn(&CpuBackend) -> Result<String, CodegenError>,
) -> Result<String, Failure> {
    let below_name =
        |backend: &CpuBackend| Ok(format!("; variant {}\n{}\n", backend.target().name, text(backend)?));
    backends.iter().map(below_name).collect()
}

fn artifact(
    source: &Source,
    flags: &TrainingArgs,
    description: &Description,
    compiled: &Compiled,
    targets: &[Target],
) -> Result<Vec<u8>, Failure> {
    let artifact = assemble(&compiled.program, targets)?;
    let weights = weights::safetensors(&starting_values(source, flags, description, compiled)?, &artifact)?;
    let texts = description.texts(&source.network.module)?;
    let mut attachments: Vec<(&str, &[u8])> = vec![(WEIGHTS_ATTACHMENT, &weights)];
    attachments.extend(texts.iter().map(|(name, text)| (*name, text.as_bytes())));
    Ok(artifact.to_bytes(&attachments))
}

/// What objects and their headers end with.
const OBJECT: &str = "o";
const HEADER: &str = "h";

/// Refuses a name that has no place for a header beside it, or that functions cannot be named after.
fn check_object(output: &Path) -> Result<(), Failure> {
    if output.extension().is_none_or(|extension| extension != OBJECT) {
        return Err(Failure::usage(format!("an object cannot be called `{}`", output.display())).with_help(
            "give `--output` a name that ends with `.o`: the header is written beside it, with `.h`",
        ));
    }
    let name = stem(output);
    if !Embedding::is_name(&name) {
        return Err(Failure::usage(format!(
            "functions cannot be named after `{name}`, which is no identifier of C"
        ))
        .with_help("give `--output` a name of letters, digits and `_`"));
    }
    files::check_writable(&output.with_extension(HEADER))
}

/// What functions are named after.
fn stem(output: &Path) -> String {
    output.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// An object whose functions are named after its file.
fn object(
    output: &Path,
    source: &Source,
    flags: &TrainingArgs,
    description: &Description,
    compiled: &Compiled,
    targets: &[Target],
) -> Result<ffc_cpu::Object, Failure> {
    let artifact = assemble(&compiled.program, targets)?;
    let values = starting_values(source, flags, description, compiled)?;
    let state = pack_state(&artifact, values.iter().map(|(name, values)| (&**name, &**values)))?;
    let embedding = Embedding {
        name: &stem(output),
        state: &state,
        seed: description.seed,
        learning_rate: description.schedule.learning_rate,
        lambda_step: description.schedule.lambda_step,
    };
    Ok(ffc_cpu::object(&artifact, &embedding)?)
}

/// What an application starts with: seeded weights, or a checkpoint's.
fn starting_values(
    source: &Source,
    flags: &TrainingArgs,
    description: &Description,
    compiled: &Compiled,
) -> Result<Vec<(String, Vec<f32>)>, Failure> {
    let mut network = source.network.clone();
    match &source.origin {
        Origin::Checkpoint(folder) => {
            let session = crate::source::restore(folder, description, &network)?;
            network.weights = crate::source::weights_of(&session);
        }
        Origin::Artifact(bytes) => {
            network.weights = crate::source::weights_of(&crate::source::load(bytes)?);
        }
        Origin::Onnx => {}
    }
    let constants = preprocessing_constants(&description.options);
    let init = job::init(source, flags);
    let values = initial_values(&compiled.program.params, &network, &constants, init, description.seed);
    values.map(|start| start.map(|start| (start.param.name.clone(), start.all()))).collect()
}
