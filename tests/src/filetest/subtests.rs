//! What file tests can do with a module.
//!
//! | test | what comes out |
//! |---|---|
//! | `roundtrip` | nothing: the text must be just as it prints |
//! | `print` | the module as it prints |
//! | `verify` | `// error:` lines of the parser or the verifier |
//! | `opt PASS,... recipe=... [option=...]` | the module after these passes, or the error of the one that refused |
//! | `compile recipe=... [option=...]` | the errors of all passes and lowering, or how much came out |
//! | `lower recipe=... [option=...]` | the kernels and schedules ([`ffc_ir::text::summary`]) |
//! | `kernels recipe=... [option=...]` | the kernels in full |
//! | `plan recipe=... [option=...]` | the memory plan |
//! | `run MODE,... [rate= lambda= seed= show=layer.value,...]` | losses, scores, parameters and values after each step |
//!
//! `run` takes its data from comments: `// set @param 1 2 3`, `// samples 0.5 1 2`, `// labels 0 1`.

use ffc_compiler::{lower, pipeline};
use ffc_ir::interpret::{Batch, Controls, Data, Mode, Samples, State, step_traced};
use ffc_ir::kernel::{BufferClass, Program};
use ffc_ir::module::Module;
use ffc_ir::numerics::step_key;
use ffc_ir::types::DType;
use ffc_ir::{Diagnostic, parse, text, verify};

use super::settings::Settings;

/// Runs one test on a module's text.
///
/// # Errors
/// Where the test cannot be run, or where `roundtrip` finds a difference.
pub fn run(test: &str, input: &str) -> Result<String, String> {
    let mut words = test.split_whitespace();
    let name = words.next().ok_or("the test has no name")?;
    if name == "verify" {
        return Ok(complaints(input));
    }
    let module = parse(input).map_err(|error| error.to_string())?;
    match name {
        "roundtrip" => roundtrip(&module, input),
        "print" => Ok(module.to_string()),
        "opt" => opt(module, words.next().ok_or("wants passes")?, &Settings::parse(words)?),
        "compile" => Ok(compiled(&module, &Settings::parse(words)?)),
        "lower" => Ok(text::summary(&program(&module, &Settings::parse(words)?)?)),
        "kernels" => Ok(program(&module, &Settings::parse(words)?)?.to_string()),
        "plan" => Ok(plan(&program(&module, &Settings::parse(words)?)?)),
        "run" => steps(&module, input, words.next().ok_or("wants modes")?, &Settings::parse(words)?),
        _ => Err(format!("there is no test `{name}`")),
    }
}

fn complaints(input: &str) -> String {
    let diagnostics: Vec<Diagnostic> = match parse(input) {
        Err(error) => vec![error],
        Ok(module) => verify(&module).err().unwrap_or_default(),
    };
    let lines = diagnostics.iter().map(|it| format!("// error: {}\n", it.to_string().replace('\n', "\n//")));
    lines.collect()
}

fn roundtrip(module: &Module, input: &str) -> Result<String, String> {
    let comment = |line: &&str| line.starts_with("//");
    let text: String = input.lines().skip_while(comment).map(|line| format!("{line}\n")).collect();
    let printed = module.to_string();
    if printed != text {
        return Err(format!("prints otherwise:\n{}", super::diff::diff(&text, &printed)));
    }
    match parse(&printed) {
        Ok(again) if again == *module => Ok(String::new()),
        Ok(_) => Err("reads back as another module".into()),
        Err(error) => Err(format!("does not read back: {error}")),
    }
}

fn opt(module: Module, passes: &str, settings: &Settings<'_>) -> Result<String, String> {
    let options = settings.options()?;
    let mut module = module;
    for name in passes.split(',') {
        let mut known = pipeline::TRAIN.iter().chain(pipeline::INFER);
        let pass =
            known.find(|pass| pass.name == name).ok_or_else(|| format!("there is no pass `{name}`"))?;
        module = match (pass.run)(module, &options) {
            Ok(module) => module,
            Err(reason) => return Ok(format!("// error: {name}: {reason}\n")),
        };
        if let Err(diagnostics) = verify(&module) {
            let all: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
            return Err(format!("`{name}` left what does not verify: {}", all.join("; ")));
        }
    }
    Ok(module.to_string())
}

fn compiled(module: &Module, settings: &Settings<'_>) -> String {
    match program(module, settings) {
        Ok(program) => {
            let (kernels, layers) = (program.kernels.len(), program.trained_layers.len());
            format!("// {kernels} kernels, {layers} trained layers\n")
        }
        Err(reason) => format!("// error: {reason}\n"),
    }
}

/// The program of an imported module.
fn program(module: &Module, settings: &Settings<'_>) -> Result<Program, String> {
    let options = settings.options()?;
    let (train, infer) = pipeline::compile(module, &options).map_err(|error| error.to_string())?;
    let verified = |module| verify(module).expect("the pipeline verifies what it makes");
    lower::lower(&verified(&train), &verified(&infer)).map_err(|error| error.to_string())
}

fn plan(program: &Program) -> String {
    let mut text = format!("arena {} bytes, state {} bytes\n", program.arena_bytes, program.state_bytes);
    let classes = [("param", true), ("accumulator", false), ("arena", false)];
    for (name, param) in classes {
        for buffer in program.buffers.values() {
            let matches = match buffer.class {
                BufferClass::Param { .. } => param,
                BufferClass::Accumulator => name == "accumulator",
                BufferClass::Arena => name == "arena",
                _ => false,
            };
            if matches {
                let [rows, columns] = buffer.shape;
                let (dtype, offset, bytes) = (buffer.dtype, buffer.offset, buffer.bytes());
                text +=
                    &format!("{name} {offset:>8} + {bytes:>8}  {} {dtype}[{rows}, {columns}]\n", buffer.name);
            }
        }
    }
    text
}

/// The numbers of comments that begin with `key`.
fn data<'a>(input: &'a str, key: &str) -> Vec<(&'a str, Vec<f32>)> {
    let prefix = format!("// {key} ");
    let lines = input.lines().filter_map(|line| line.strip_prefix(&prefix));
    lines
        .map(|line| {
            let name = line.split_whitespace().next().unwrap_or_default();
            let numbers = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            (name, numbers)
        })
        .collect()
}

fn steps(module: &Module, input: &str, modes: &str, settings: &Settings<'_>) -> Result<String, String> {
    let verified = verify(module).map_err(|errors| errors[0].to_string())?;
    let mut state = State::new(module);
    for (name, values) in data(input, "set") {
        let param = module.param(name.trim_start_matches('@')).ok_or_else(|| format!("no param {name}"))?;
        state.set_weights(param, &values).map_err(|error| format!("{name}: {error}"))?;
    }
    let flat = |key| {
        data(input, key).into_iter().flat_map(|(_, numbers): (_, Vec<f32>)| numbers).collect::<Vec<_>>()
    };
    let floats = flat("samples");
    let bytes: Vec<u8> = floats.iter().map(|&value| value as u8).collect();
    let labels: Vec<i32> = flat("labels").iter().map(|&label| label as i32).collect();
    let inputs = if module.input == DType::U8 { Samples::U8(&bytes) } else { Samples::F32(&floats) };
    let batch = Batch { inputs, labels: &labels };
    let (rate, lambda) = (settings.number("rate", 0.0)?, settings.number("lambda", 0.0)?);
    let seed = settings.number("seed", 0)?;
    let mut text = String::new();
    for (index, name) in modes.split(',').enumerate() {
        let mode = match name {
            "train" => Mode::Train,
            "calibrate" => Mode::Calibrate,
            "infer" => Mode::Infer,
            _ => {
                Mode::TrainLayer(name.strip_prefix("layer").and_then(|it| it.parse().ok()).ok_or("no mode")?)
            }
        };
        let rate = if mode == Mode::Calibrate { 0.0 } else { rate };
        let controls = Controls { rate, lambda, key: step_key(seed, index as u64) as i32 };
        let outcome = step_traced(&verified, &mut state, &batch, &controls, mode)
            .map_err(|error| format!("{name}: {error}"))?;
        text += &format!("{name}\n");
        for (layer, loss) in &outcome.losses {
            text += &format!("  loss of {layer} {loss:?}\n");
        }
        if let Some(scores) = &outcome.scores {
            text += &format!("  scores {scores:?}\n");
        }
        for place in settings.get("show").into_iter().flat_map(|shown| shown.split(',')) {
            let (layer, value) = place.split_once('.').ok_or("`show` wants layer.value")?;
            let trace = outcome.trace.as_ref().expect("the step was traced");
            if let Some(tensor) = trace.get(layer, value) {
                text += &format!("  {layer}.{value} {}\n", numbers(&tensor.data));
            }
        }
        if mode != Mode::Infer {
            for (handle, param) in module.params.iter() {
                text += &format!("  @{} {:?}\n", param.name, state.weights(handle));
            }
        }
    }
    Ok(text)
}

fn numbers(data: &Data) -> String {
    match data {
        Data::U8(data) => format!("{data:?}"),
        Data::I8(data) => format!("{data:?}"),
        Data::I16(data) => format!("{data:?}"),
        Data::I32(data) => format!("{data:?}"),
        Data::F32(data) => format!("{data:?}"),
    }
}
