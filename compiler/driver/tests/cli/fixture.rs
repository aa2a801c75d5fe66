//! A folder with a small network and small data, and the command run in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ffc_ir::module::{Param, ParamRole};
use ffc_onnx::proto::ModelProto;
use ffc_onnx::{ExportModel, Interface, Prediction, PredictionKind, Size, SoftmaxTail};
use prost::Message;
use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub(crate) const FFC: &str = env!("CARGO_BIN_EXE_ffc");
/// Pixels of a side of the small images.
pub(crate) const SIDE: usize = 8;
/// Classes of the small data.
pub(crate) const CLASSES: usize = 4;
/// Samples of its splits.
pub(crate) const SAMPLES: [usize; 2] = [300, 100];

/// The real digits.
pub(crate) fn mnist() -> PathBuf {
    examples().join("mnist")
}

/// The repository's examples.
pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// What a command gave.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Standard output, each line as JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.out.lines().map(line).collect()
    }

    /// The last line as JSON.
    pub(crate) fn last(&self) -> Value {
        self.json().pop().unwrap()
    }
}

/// See the [module documentation](self).
pub(crate) struct Fixture {
    folder: TempDir,
    /// Where decoded images are kept.
    pub(crate) cache: TempDir,
}

impl Fixture {
    /// With `net.onnx`, which has two hidden layers, and the folder `data`.
    pub(crate) fn new() -> Self {
        let fixture = Self { folder: tempfile::tempdir().unwrap(), cache: tempfile::tempdir().unwrap() };
        std::fs::write(fixture.path("net.onnx"), network(SIDE * SIDE, CLASSES)).unwrap();
        fixture.write_data("data", SIDE, CLASSES);
        fixture
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The bytes of a file.
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Writes an IDX data set.
    pub(crate) fn write_data(&self, name: &str, side: usize, classes: usize) {
        std::fs::create_dir(self.path(name)).unwrap();
        for (split, (samples, seed)) in ["train", "t10k"].iter().zip(SAMPLES.into_iter().zip([1, 2])) {
            let (images, labels) = digits(samples, side, classes, seed);
            let write = |kind: &str, sizes: &[usize], data: &[u8]| {
                let mut bytes = vec![0, 0, 8, sizes.len() as u8];
                sizes.iter().for_each(|&size| bytes.extend((size as u32).to_be_bytes()));
                bytes.extend(data);
                self.write(&format!("{name}/{split}-{kind}-ubyte"), bytes);
            };
            write("images-idx3", &[samples, side, side], &images);
            write("labels-idx1", &[samples], &labels);
        }
    }

    /// Runs `ffc` with these arguments, which hold no spaces.
    pub(crate) fn ffc(&self, line: &str) -> Run {
        self.run(line, &mut self.command(line))
    }

    fn run(&self, line: &str, command: &mut Command) -> Run {
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(!err.contains("panicked"), "ffc {line}: {err}");
        Run { status: output.status.code().unwrap_or(-1), out, err }
    }

    /// The command, not started.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(FFC);
        command.args(line.split_whitespace()).current_dir(self.folder.path());
        command.env("FFC_CACHE", self.cache.path());
        command
    }

    /// Started, its standard output to be read.
    pub(crate) fn start(&self, line: &str) -> Child {
        self.command(line).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// As [`Fixture::ffc`], and it must succeed.
    pub(crate) fn done(&self, line: &str) -> Run {
        succeeded(line, self.ffc(line))
    }

    /// As [`Fixture::done`], with a variable of the environment set.
    pub(crate) fn done_with(&self, variable: &str, value: &str, line: &str) -> Run {
        succeeded(line, self.run(line, self.command(line).env(variable, value)))
    }

    /// As [`Fixture::ffc`], and it must fail with an error that holds these texts, leaving all files as they were.
    pub(crate) fn refused(&self, line: &str, texts: &[&str]) -> Run {
        self.fails(1, line, &mut self.command(line), texts)
    }

    /// As [`Fixture::refused`], with a variable of the environment set.
    pub(crate) fn refused_with(&self, variable: &str, value: &str, line: &str, texts: &[&str]) -> Run {
        self.fails(1, line, self.command(line).env(variable, value), texts)
    }

    /// The same as [`Fixture::refused`] for wrong usage.
    pub(crate) fn misused(&self, line: &str, texts: &[&str]) -> Run {
        self.fails(2, line, &mut self.command(line), texts)
    }

    fn fails(&self, status: i32, line: &str, command: &mut Command, texts: &[&str]) -> Run {
        let before = files(self.folder.path());
        let run = self.run(line, command);
        assert_eq!(run.status, status, "ffc {line}: {}", run.err);
        assert!(run.err.lines().any(|line| line.starts_with("error: ")), "ffc {line}: {}", run.err);
        for text in texts {
            assert!(run.err.contains(text), "ffc {line}: no `{text}` in {}", run.err);
        }
        assert_eq!(files(self.folder.path()), before, "ffc {line} left something behind");
        run
    }
}

fn succeeded(line: &str, run: Run) -> Run {
    assert_eq!(run.status, 0, "ffc {line}: {}", run.err);
    run
}

/// All files below a folder with their sizes, sorted.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            }
            found.push((entry.path(), if metadata.is_dir() { 0 } else { metadata.len() }));
        }
    }
    found.sort();
    found
}

/// A fixed sequence of numbers.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// 0 to 2^24 - 1.
    pub(crate) fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as u32
    }

    /// Within ±1.
    pub(crate) fn number(&mut self) -> f32 {
        self.bits() as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Images of noise in which one band is bright, the one of the class; noisy enough that some are hard.
pub(crate) fn digits(samples: usize, side: usize, classes: usize, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut numbers = Numbers(seed);
    let mut images = Vec::with_capacity(samples * side * side);
    let mut labels = Vec::with_capacity(samples);
    for sample in 0..samples {
        let class = sample % classes;
        labels.push(class as u8);
        for row in 0..side {
            let bright = if row * classes / side == class { 45 } else { 0 };
            images.extend((0..side).map(|_| (numbers.bits() % 200 + bright) as u8));
        }
    }
    (images, labels)
}

/// `features` to `classes` through layers of 40 and 24.
pub(crate) fn network(features: usize, classes: usize) -> Vec<u8> {
    let text = format!(
        "module @net imported {{
           input f32[{features}]
           classes {classes}
           batch 32
           rows plain
           param @fc1.weight: f32[40, {features}] weight
           param @fc1.bias: f32[1, 40] bias
           param @fc2.weight: f32[24, 40] weight
           param @fc2.bias: f32[1, 24] bias
           param @fc3.weight: f32[{classes}, 24] weight
           param @fc3.bias: f32[1, {classes}] bias
           layer @main whole {{
             forward {{
               %x: f32[rows, {features}] = operand 0
               %w1 = param @fc1.weight
               %d1 = dot %x, %w1
               %b1 = param @fc1.bias
               %z1 = add %d1, %b1
               %fc1.relu = activate relu, %z1
               %w2 = param @fc2.weight
               %d2 = dot %fc1.relu, %w2
               %b2 = param @fc2.bias
               %z2 = add %d2, %b2
               %fc2.relu = activate relu, %z2
               %w3 = param @fc3.weight
               %d3 = dot %fc2.relu, %w3
               %b3 = param @fc3.bias
               %z3 = add %d3, %b3
               yield %z3
             }}
           }}
         }}"
    );
    file(&text, &[features])
}

/// `features` to `classes` through a layer of 24 and a residual block that narrows to 2 in between.
pub(crate) fn residual(features: usize, classes: usize) -> Vec<u8> {
    let text = format!(
        "module @residual imported {{
           input f32[{features}]
           classes {classes}
           batch 32
           rows plain
           param @stem.weight: f32[24, {features}] weight
           param @a1.weight: f32[2, 24] weight
           param @a1.bias: f32[1, 2] bias
           param @a2.weight: f32[24, 2] weight
           param @fc.weight: f32[{classes}, 24] weight
           param @fc.bias: f32[1, {classes}] bias
           layer @main whole {{
             forward {{
               %x: f32[rows, {features}] = operand 0
               %w0 = param @stem.weight
               %d0 = dot %x, %w0
               %stem.relu = activate relu, %d0
               %w1 = param @a1.weight
               %d1 = dot %stem.relu, %w1
               %b1 = param @a1.bias
               %z1 = add %d1, %b1
               %a1.tanh = activate tanh, %z1
               %w2 = param @a2.weight
               %d2 = dot %a1.tanh, %w2
               %sum = add %d2, %stem.relu
               %a2.relu = activate relu, %sum
               %w3 = param @fc.weight
               %d3 = dot %a2.relu, %w3
               %b3 = param @fc.bias
               %z3 = add %d3, %b3
               yield %z3
             }}
           }}
         }}"
    );
    file(&text, &[features])
}

/// Images of one channel to `classes` through a convolution of stride 2 and others of as many channels each.
pub(crate) fn convolutional(side: usize, channels: usize, convolutions: usize, classes: usize) -> Vec<u8> {
    let (pixels, half) = (side * side, side / 2);
    let (positions, whole) = (half * half, half * half * channels);
    let (mut params, mut forward) = (String::new(), String::new());
    let mut seen = ("image".to_string(), 1, side, 2);
    for layer in 1..=convolutions {
        let (input, depth, size, stride) = seen;
        let columns = 9 * depth;
        params += &format!(
            "param @conv{layer}.weight: f32[{channels}, {columns}] weight
             param @conv{layer}.bias: f32[1, {channels}] bias\n"
        );
        forward += &format!(
            "%w{layer} = param @conv{layer}.weight
             %v{layer}: f32[rows * {positions}, {columns}] = window %{input}, input({size}, {size}), \
               output({half}, {half}), kernel(3, 3), stride({stride}, {stride}), pad(1, 1)
             %d{layer} = dot %v{layer}, %w{layer}
             %b{layer} = param @conv{layer}.bias
             %z{layer} = add %d{layer}, %b{layer}
             %y{layer} = activate relu, %z{layer}\n"
        );
        seen = (format!("y{layer}"), channels, half, 1);
    }
    let text = format!(
        "module @net imported {{
           input f32[{pixels}]
           classes {classes}
           batch 32
           rows plain
           {params}
           param @fc.weight: f32[{classes}, {whole}] weight
           param @fc.bias: f32[1, {classes}] bias
           layer @main whole {{
             forward {{
               %x: f32[rows, {pixels}] = operand 0
               %image: f32[rows * {pixels}, 1] = pixels %x, channels(1)
               {forward}
               %w = param @fc.weight
               %v: f32[rows, {whole}] = window %{last}, input({half}, {half}), output(1, 1), kernel({half}, {half}), \
                 stride({half}, {half})
               %d = dot %v, %w
               %b = param @fc.bias
               %z = add %d, %b
               yield %z
             }}
           }}
         }}",
        last = seen.0,
    );
    file(&text, &[1, side, side])
}

/// A file of this module with a random start, whose input has these dimensions beside the batch.
fn file(text: &str, dims: &[usize]) -> Vec<u8> {
    let module = ffc_ir::parse(text).unwrap();
    let (features, classes) = (module.features, module.classes);
    let mut numbers = Numbers(features as u64);
    let mut values = |param: &Param| match param.role {
        ParamRole::Bias => vec![0.0; param.len()],
        _ => (0..param.len()).map(|_| numbers.number() / (param.shape[1] as f32).sqrt()).collect(),
    };
    let weights: Vec<_> = module.params.values().map(|param| (param.name.clone(), values(param))).collect();
    let input_dims = [Size::Symbol("batch".into())].into_iter().chain(dims.iter().copied().map(Size::Fixed));
    let input_dims = input_dims.collect();
    let interface = Interface {
        input: "pixels".into(),
        input_dims,
        output: "scores".into(),
        output_dims: vec![Size::Symbol("batch".into()), Size::Fixed(classes)],
        softmax: SoftmaxTail::None,
        opset: 17,
        ir_version: 8,
        normalization: None,
        batch_normalized: Vec::new(),
        prediction: PredictionKind::Classifier,
        metadata: Vec::new(),
    };
    let (metadata, prediction) = (Vec::new(), Prediction::Classifier);
    let model = ExportModel {
        interface,
        module,
        normalization: None,
        layer_of: HashMap::new(),
        metadata,
        prediction,
    };
    let values =
        |name: &str| weights.iter().find(|(other, _)| other == name).map(|(_, values)| values.clone());
    let mut bytes = Vec::new();
    ffc_onnx::export(&model, &values, &mut bytes).unwrap();
    bytes
}

/// The small network, changed.
pub(crate) fn changed(change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut model = ModelProto::decode(network(SIDE * SIDE, CLASSES).as_slice()).unwrap();
    change(&mut model);
    model.encode_to_vec()
}
