//! `ffc opt`: runs passes on the text form of the IR.

use std::path::PathBuf;

use clap::Args;
use ffc_compiler::pipeline::{self, Pass};

use super::{print_line, say};
use crate::options::TrainingArgs;
use crate::{Failure, files};

/// Arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  ffc opt network.ffir --passes cut-layers,insert-preparation")]
pub struct Opt {
    /// Layer IR in its text form
    #[arg(required_unless_present = "list")]
    pub file: Option<PathBuf>,
    /// Passes in the order in which they run [default: all that train]
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    pub passes: Option<Vec<String>>,
    /// Print the module after these passes, or after `all`, on standard error
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    pub print_after: Vec<String>,
    /// List the passes
    #[arg(long)]
    pub list: bool,
    /// Training options.
    #[command(flatten)]
    pub options: TrainingArgs,
}

/// Runs the command.
///
/// # Errors
/// Whatever stops it.
pub fn run(args: Opt) -> Result<(), Failure> {
    if args.list {
        return list();
    }
    let path = args.file.ok_or_else(|| Failure::new("no file given"))?;
    let text = String::from_utf8(files::read(&path)?)
        .map_err(|_| Failure::new(format!("`{}` is not UTF-8 text", path.display())))?;
    let failed = |failure: Failure| Failure {
        message: format!("`{}`: {}", path.display(), failure.message),
        ..failure
    };
    let module = ffc_ir::parse(&text).map_err(|error| failed(error.into()))?;
    ffc_ir::verify(&module).map_err(|errors| failed(errors.into()))?;
    let flags = args.options.with_config()?;
    let recipe = flags.recipe()?;
    let (mut options, mut schedule) = (recipe.options(), recipe.schedule);
    options.batch = module.batch;
    flags.apply(&mut options, &mut schedule)?;
    let passes = match &args.passes {
        None => pipeline::TRAIN.iter().filter(|pass| (pass.wanted)(&options)).collect(),
        Some(names) => names.iter().map(|name| find(name)).collect::<Result<Vec<_>, _>>()?,
    };
    for name in args.print_after.iter().filter(|name| *name != "all") {
        find(name)?;
    }
    let print = |pass: &Pass| args.print_after.iter().any(|name| name == "all" || name == pass.name);
    let module = pipeline::run_all(module, passes, &options, |pass, module| {
        if print(pass) {
            say(&format!("// after {}\n{module}", pass.name));
        }
    })?;
    print_line(module.to_string().trim_end())
}

fn find(name: &str) -> Result<&'static Pass, Failure> {
    pipeline::all().find(|pass| pass.name == name).ok_or_else(|| {
        Failure::usage(format!("there is no pass `{name}`")).with_help("`ffc opt --list` lists them")
    })
}

fn list() -> Result<(), Failure> {
    for pass in pipeline::all() {
        print_line(&format!("{:<24} {}", pass.name, pass.description))?;
    }
    Ok(())
}
