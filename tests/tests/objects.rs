//! Ahead-of-time objects beside sessions: the same steps, and every bit of what they give compared.
//!
//! A script is written for both at once: commands for a program in C that is linked with the object (`objects/replay.c`),
//! and the bytes that it must answer, which a session gives. Between commands the program fills the arena with noise and
//! moves the state elsewhere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::path::Path;

use ffc_codegen::{Architecture, NamedTarget, TARGETS, Target};
use ffc_compiler::recipe::{Options, Precision};
use ffc_cpu::{Embedding, object_targets};
use ffc_ir::kernel::Program;
use ffc_ir::module::{Activation, Module};
use ffc_runtime::artifact::Artifact;
use ffc_runtime::{Cpu, Samples, Session, pack_state};
use ffc_tests::cc;
use ffc_tests::session::{Given, program, program_of, targets, variants};
use ffc_tests::{images, networks};

/// What an epoch adds to lambda.
const LAMBDA_STEP: f32 = 0.3;
/// The seed of steps.
const SEED: u64 = 0x1234_5678_9abc_def0;

/// A network to train, with the module that its first weights are for.
struct Net {
    name: String,
    module: Module,
    program: Program,
}

/// Every kind of network with every change of its options, of images each other one.
fn nets() -> Vec<Net> {
    let trains = |options: &Options| options.precision == Precision::Int8;
    let dense = networks::cases().into_iter().filter(|case| trains(&case.options)).map(|case| {
        let (module, program) = program(&case);
        Net { name: case.name, module, program }
    });
    let images = images::cases().into_iter().filter(|case| trains(&case.options)).step_by(2).map(|case| {
        let (module, program) = program_of(&case.name, &case.imported, &case.options);
        Net { name: case.name, module, program }
    });
    dense.chain(images).collect()
}

/// A network of a few layers that takes what `options` say.
fn small(name: &str, change: impl FnOnce(&mut Options)) -> Net {
    let mut options = ffc_compiler::recipe::RECIPES[0].options();
    options.batch = 6;
    change(&mut options);
    let sizes = vec![21, 17, 9, 4];
    let (module, program) =
        program(&networks::Case { name: name.to_string(), sizes, activation: Activation::Relu, options });
    Net { name: name.to_string(), module, program }
}

impl Net {
    fn artifact(&self, targets: &[Target]) -> Artifact {
        variants(&self.program, targets, false)
    }

    /// Writes `net.o` and `net.h` into a folder.
    fn write(&self, artifact: &Artifact, folder: &Path) {
        let weights = networks::weights(&self.module, 3);
        let values = weights.iter().map(|(name, values)| (name.as_str(), values.as_slice()));
        let state = pack_state(artifact, values).unwrap();
        let embedding = Embedding {
            name: "net",
            state: &state,
            seed: SEED,
            learning_rate: 0.5,
            lambda_step: LAMBDA_STEP,
        };
        let object =
            ffc_cpu::object(artifact, &embedding).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        std::fs::write(folder.join("net.o"), object.bytes).unwrap();
        std::fs::write(folder.join("net.h"), object.header).unwrap();
    }

    /// The network in a session.
    fn session(&self, artifact: Artifact) -> Session {
        let options = ffc_runtime::Options { seed: SEED, ..ffc_runtime::Options::default() };
        let mut session = Session::new(artifact, options).unwrap();
        for (name, values) in networks::weights(&self.module, 3) {
            session.load_weights(&name, &values).unwrap();
        }
        session
    }
}

/// Commands, and what they must give.
struct Script {
    session: Session,
    commands: Vec<u8>,
    answers: Vec<u8>,
}

impl Script {
    /// Everything that an object does, in full and in short batches.
    fn all(net: &Net, level: &Target) -> Self {
        let session = net.session(net.artifact(std::slice::from_ref(level)));
        let mut script = Self { session, commands: Vec::new(), answers: Vec::new() };
        let batch = net.program.batch;
        script.commands.push(b'B');
        script.commands.extend(SEED.to_le_bytes());
        script.answer_ok();
        let given = |samples, seed| Given::new(&net.program, samples, seed);
        for epoch in 0..3 {
            for (step, samples) in [batch, 1, batch.div_ceil(2), batch].into_iter().enumerate() {
                let rate = 0.7 / (step + 1) as f32;
                script.train(&given(samples, (10 * epoch + step) as u64), rate);
                script.commands.push(b'C');
            }
            script.infer(&given(1, 77));
            script.infer(&given(2 * net.program.infer_batch + 1, 78));
            script.end_epoch();
            script.export();
            script.import(epoch);
        }
        script.train(&given(batch, 99), 0.1);
        script.export();
        script
    }

    fn answer_ok(&mut self) {
        self.answers.extend((ffc_cpu::Status::Ok as u32).to_le_bytes());
    }

    fn answer(&mut self, numbers: &[f32]) {
        self.answer_ok();
        self.answers.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }

    fn give(&mut self, samples: Samples<'_>) {
        match samples {
            Samples::U8(bytes) => self.commands.extend(bytes),
            Samples::F32(numbers) => {
                self.commands.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
        }
    }

    fn train(&mut self, given: &Given, rate: f32) {
        self.commands.push(b'T');
        self.commands.extend((given.labels.len() as u64).to_le_bytes());
        self.commands.extend(rate.to_le_bytes());
        self.give(given.samples());
        self.commands.extend(given.labels.iter().flat_map(|label| label.to_le_bytes()));
        self.session.set_learning_rate(rate);
        let report = self.session.train_step(given.samples(), &given.labels).unwrap();
        let losses = report.losses.to_vec();
        self.answer(&losses);
    }

    fn infer(&mut self, given: &Given) {
        self.commands.push(b'I');
        self.commands.extend((given.labels.len() as u64).to_le_bytes());
        self.give(given.samples());
        let mut scores = vec![0.0; given.labels.len() * self.session.program().classes];
        self.session.infer(given.samples(), &mut scores).unwrap();
        self.answer(&scores);
    }

    fn end_epoch(&mut self) {
        self.commands.push(b'E');
        self.session.end_epoch();
        self.session.set_lambda(LAMBDA_STEP * self.session.epoch() as f32);
        self.answer_ok();
    }

    fn export(&mut self) {
        self.commands.push(b'X');
        let weights: Vec<f32> = self.session.weights().flat_map(|(_, _, values)| values).collect();
        self.answer(&weights);
    }

    /// Other weights, some of them beyond all others, some of them ties between two steps.
    fn import(&mut self, seed: usize) {
        let change = |index: usize, value: f32| match (index + seed) % 7 {
            0 => -value,
            1 => value * 1.25,
            2 => 0.0,
            3 => 1e-30,
            4 => f32::from_bits(value.to_bits() & 0xffff_0000),
            5 => (value * 256.0).round() / 256.0 + 0.5 / 65536.0,
            _ => value,
        };
        let all: Vec<_> =
            self.session.weights().map(|(name, _, values)| (name.to_string(), values)).collect();
        self.commands.push(b'M');
        for (name, values) in all {
            let values: Vec<f32> =
                values.iter().enumerate().map(|(index, &value)| change(index, value)).collect();
            self.session.load_weights(&name, &values).unwrap();
            self.commands.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        self.answer_ok();
    }

    fn compare(&self, name: &str, given: &[u8]) {
        let difference = self.answers.iter().zip(given).position(|(wanted, given)| wanted != given);
        assert_eq!(difference, None, "{name}: the first byte that differs of {}", self.answers.len());
        assert_eq!(given.len(), self.answers.len(), "{name}");
    }
}

/// The levels that an object for this machine may have.
fn levels() -> Vec<Target> {
    let mut levels: Vec<Target> =
        targets().into_iter().flat_map(|target| object_targets(vec![target])).collect();
    levels.dedup_by(|below, above| below.features == above.features);
    levels
}

#[test]
fn objects_train_as_sessions_do() {
    if !cc::has("objects", &["gcc"]) {
        return;
    }
    let levels = levels();
    for (index, net) in nets().iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let level = &levels[index % levels.len()];
        net.write(&net.artifact(std::slice::from_ref(level)), folder.path());
        let replay = cc::link("gcc", &[], folder.path(), "replay.c");
        let script = Script::all(net, level);
        script.compare(
            &format!("{} on {}", net.name, level.name),
            &cc::run(replay, &[""; 0], &script.commands),
        );
    }
}

/// Of several variants only the one that should run is whole: the others end the program.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_best_variant_is_chosen() {
    const UD2: [u8; 2] = [0x0f, 0x0b];
    if !cc::has("objects", &["gcc"]) {
        return;
    }
    let (net, cpu) = (small("chosen", |_| {}), Cpu::detect());
    for target in TARGETS.iter().filter(|target| target.architecture == Architecture::X86_64) {
        let mut artifact = net.artifact(&object_targets(target.variants()));
        let runs = |features: &[String]| features.iter().all(|feature| cpu.has(feature));
        let Some(best) = artifact.variants.iter().position(|variant| runs(&variant.features)) else {
            continue;
        };
        for (_, variant) in artifact.variants.iter_mut().enumerate().filter(|(index, _)| *index != best) {
            variant.code = UD2.repeat(variant.code.len().div_ceil(2));
        }
        let folder = tempfile::tempdir().unwrap();
        net.write(&artifact, folder.path());
        let replay = cc::link("gcc", &[], folder.path(), "replay.c");
        let script = Script::all(&net, &levels()[0]);
        script.compare(target.name, &cc::run(replay, &[""; 0], &script.commands));
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    if !cc::has("objects", &["gcc"]) {
        return;
    }
    for (net, level) in [
        (small("floats", |_| {}), levels().remove(0)),
        (
            small("bytes", |options| options.preprocessing.input = ffc_ir::types::DType::U8),
            levels().pop().unwrap(),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        net.write(&net.artifact(&[level]), folder.path());
        let refusals = cc::link("gcc", &[], folder.path(), "refusals.c");
        let output = cc::try_run(refusals, &[""; 0], &[]);
        assert!(output.status.success(), "{}: {}", net.name, String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn objects_of_all_targets_need_nothing() {
    if !cc::has("objects", &["nm"]) {
        return;
    }
    let net = small("net", |_| {});
    for target in &TARGETS {
        let folder = tempfile::tempdir().unwrap();
        let artifact = net.artifact(&object_targets(target.variants()));
        net.write(&artifact, folder.path());
        let symbols = |option: &str| {
            let arguments = [OsString::from(option), folder.path().join("net.o").into_os_string()];
            String::from_utf8(cc::run("nm", &arguments, &[])).unwrap()
        };
        assert_eq!(symbols("-u"), "", "{}", target.name);
        let names = symbols("-g");
        let names: Vec<_> = names.lines().filter_map(|line| line.split(' ').nth(2)).collect();
        let wanted = ["net_end_epoch", "net_export", "net_import", "net_infer", "net_init", "net_train_step"];
        assert_eq!(names, wanted, "{}", target.name);
    }
}

#[test]
fn headers_are_plain_c_and_cplusplus() {
    if !cc::has("objects", &["gcc", "g++"]) {
        return;
    }
    for net in [small("floats", |_| {}), small("momentum", |options| options.momentum = 0.9)] {
        let folder = tempfile::tempdir().unwrap();
        let artifact = net.artifact(&object_targets(NamedTarget::find("x86_64").unwrap().variants()));
        net.write(&artifact, folder.path());
        let use_twice = "#include \"net.h\"\n#include \"net.h\"\nint main(void) { return NET_OK; }\n";
        for (compiler, source, standard) in
            [("gcc", "use.c", "-std=c99"), ("gcc", "use.c", "-std=c17"), ("g++", "use.cpp", "-std=c++11")]
        {
            let source = folder.path().join(source);
            std::fs::write(&source, use_twice).unwrap();
            let mut arguments: Vec<_> = cc::STRICT.iter().map(OsString::from).collect();
            arguments.extend([standard.into(), "-fsyntax-only".into(), source.into_os_string()]);
            cc::run(compiler, &arguments, &[]);
        }
    }
}

/// What the header says of memory is the plan's and what the driver keeps, to the byte.
#[test]
fn memory_is_the_plans() {
    const LINE: usize = 64;
    let net = small("net", |_| {});
    let artifact = net.artifact(&object_targets(NamedTarget::find("riscv64").unwrap().variants()));
    let folder = tempfile::tempdir().unwrap();
    net.write(&artifact, folder.path());
    let header = std::fs::read_to_string(folder.path().join("net.h")).unwrap();
    let constant = |name: &str| -> usize {
        let line = header.lines().find_map(|line| line.strip_prefix(&format!("#define NET_{name} ")));
        line.unwrap().parse().unwrap()
    };
    let progress = LINE;
    assert_eq!(constant("STATE_BYTES"), net.program.state_bytes + progress);
    let numbers = LINE * (3 + artifact.trained_layers.len());
    let table = (8 * artifact.buffers.len()).next_multiple_of(LINE);
    assert_eq!(constant("ARENA_BYTES"), net.program.arena_bytes + numbers + table);
    let session = net.session(net.artifact(&levels()[..1]));
    let weights: usize = session.weights().map(|(_, _, values)| values.len()).sum();
    assert_eq!(constant("WEIGHTS"), weights);
    for (name, [rows, columns], _) in session.weights() {
        let line = header.lines().find(|line| line.ends_with(&format!("   {name}"))).unwrap();
        let numbers: Vec<usize> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers[1..], [rows, columns], "{name}");
    }
}

/// A compiler for another architecture, and a program that runs its programs.
const EMULATED: [(&str, &str, &str); 2] = [
    ("aarch64-dotprod", "aarch64-linux-gnu-gcc", "qemu-aarch64-static"),
    ("riscv64", "riscv64-linux-gnu-gcc", "qemu-riscv64-static"),
];

#[test]
#[ignore = "needs gcc-aarch64-linux-gnu, gcc-riscv64-linux-gnu and qemu-user-static"]
fn objects_of_other_architectures_train_as_sessions_do() {
    for (target, compiler, emulator) in EMULATED {
        let targets = object_targets(NamedTarget::find(target).unwrap().variants());
        for net in nets() {
            let folder = tempfile::tempdir().unwrap();
            net.write(&net.artifact(&targets), folder.path());
            let replay = cc::link(compiler, &["-static"], folder.path(), "replay.c");
            let script = Script::all(&net, &levels()[0]);
            script.compare(
                &format!("{} on {target}", net.name),
                &cc::run(emulator, &[replay], &script.commands),
            );
        }
    }
}

#[test]
#[ignore = "needs qemu-user-static"]
fn processors_of_all_kinds_find_their_variant() {
    let net = small("net", |_| {});
    let script = Script::all(&net, &levels()[0]);
    for (target, processor, runs) in [
        ("x86_64", "qemu64", true),
        ("x86_64", "Nehalem", true),
        ("x86_64", "Haswell", true),
        ("x86_64-v3", "Nehalem", false),
        ("x86_64-v3", "Haswell", true),
        ("x86_64-v4", "qemu64", false),
        ("x86_64-v4", "Haswell", true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let targets = object_targets(NamedTarget::find(target).unwrap().variants());
        net.write(&net.artifact(&targets), folder.path());
        let replay = cc::link("gcc", &["-static"], folder.path(), "replay.c");
        let arguments = ["-cpu".as_ref(), processor.as_ref(), replay.as_os_str()];
        let given = cc::run("qemu-x86_64-static", &arguments, &script.commands);
        if runs {
            script.compare(&format!("{target} on {processor}"), &given);
        } else {
            let unsupported = (ffc_cpu::Status::UnsupportedCpu as u32).to_le_bytes();
            assert_eq!(given[..4], unsupported, "{target} on {processor}");
        }
    }
}
