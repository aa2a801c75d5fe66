//! Training images that are shifted and mirrored, and batches that are prepared beside training.

use ffc::Failure;
use ffc::job::{self, Setting};
use ffc::options::TrainingArgs;
use ffc::source::Source;
use ffc::trainer::Trainer;
use ffc::training::{self, EpochReport, Observer};

use crate::checkpoints::killed;
use crate::fixture::{Fixture, SIDE, mnist};

const AUGMENTED: &str = "--shift 2 --flip";

fn hash(fixture: &Fixture, line: &str) -> String {
    fixture.done(&format!("{line} --json")).last()["weights_hash"].as_str().unwrap().to_string()
}

struct Nobody;

impl Observer for Nobody {
    fn step(&mut self, _: usize, _: usize, _: usize, _: f32) {}

    fn epoch(&mut self, _: &EpochReport, _: &Trainer) -> Result<(), Failure> {
        Ok(())
    }
}

#[test]
fn batches_prepared_beside_training_give_the_same_bits() {
    let fixture = Fixture::new();
    for (shift, recipe) in [(0, "projection"), (2, "projection"), (1, "ff-int8")] {
        let hash = |beside, threads| {
            let source = Source::open(&fixture.path("net.onnx")).unwrap();
            let args = TrainingArgs {
                recipe: Some(recipe.to_string()),
                epochs: Some(3),
                batch_size: Some(37),
                shift: Some(shift),
                flip: Some(shift > 0),
                ..TrainingArgs::default()
            };
            let setting = Setting { data: fixture.path("data"), threads, ..Setting::default() };
            let (mut job, data) = job::prepare(source, &args, &setting).unwrap();
            job.plan.beside = beside;
            training::run(&mut job.trainer, &job.plan, &data.train, &data.test, &mut Nobody).unwrap();
            job.trainer.weights_hash().unwrap()
        };
        let in_line = hash(false, 1);
        for (beside, threads) in [(true, 1), (false, 2), (true, 2)] {
            assert_eq!(in_line, hash(beside, threads), "{recipe} {shift} {beside} {threads}");
        }
    }
}

#[test]
fn augmentation_is_a_function_of_the_seed() {
    let fixture = Fixture::new();
    let line = "train net.onnx --data data --epochs 2 --batch-size 37";
    let first = hash(&fixture, &format!("{line} {AUGMENTED}"));
    assert_eq!(first, hash(&fixture, &format!("{line} {AUGMENTED}")));
    for threads in [2, 3, 0] {
        assert_eq!(first, hash(&fixture, &format!("{line} {AUGMENTED} --threads {threads}")), "{threads}");
    }
    let plain = hash(&fixture, line);
    let others = ["--shift 2", "--flip", "--shift 1 --flip", "--shift 2 --flip --seed 2"];
    let mut all: Vec<String> =
        others.iter().map(|flags| hash(&fixture, &format!("{line} {flags}"))).collect();
    all.extend([first, plain.clone()]);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6);
    assert_eq!(plain, hash(&fixture, &format!("{line} --shift 0 --flip=false")));
}

#[test]
fn configuration_files_and_artifacts_keep_it() {
    let fixture = Fixture::new();
    let line = "train net.onnx --data data --epochs 2";
    let flags = hash(&fixture, &format!("{line} {AUGMENTED}"));
    fixture.write("run.toml", "shift = 2\nflip = true\n");
    assert_eq!(flags, hash(&fixture, &format!("{line} --config run.toml")));
    assert_eq!(
        hash(&fixture, line),
        hash(&fixture, &format!("{line} --config run.toml --shift 0 --flip=false"))
    );
    fixture.done(&format!("compile net.onnx --data data -o net.ffc --epochs 2 {AUGMENTED}"));
    assert_eq!(flags, hash(&fixture, "train net.ffc --data data"));
    let told = fixture.done(&format!("{line} --shift 2"));
    assert!(told.err.contains("training images are shifted by up to 2 pixels, not mirrored"), "{}", told.err);
}

#[test]
fn a_run_that_goes_on_sees_the_images_that_it_would_have_seen() {
    let fixture = Fixture::new();
    let line = format!("train net.onnx --data data --epochs 40 {AUGMENTED} --checkpoint");
    let straight = hash(&fixture, &format!("{line} straight"));
    killed(&fixture, &format!("{line} killed --json"));
    // The checkpoint remembers the options.
    assert_eq!(straight, hash(&fixture, "train killed --data data --resume"));
}

#[test]
fn test_data_stays_as_it_is() {
    let fixture = Fixture::new();
    let line = format!("train net.onnx --data data --epochs 2 {AUGMENTED} --checkpoint run --json");
    let trained = fixture.done(&line).last();
    assert_eq!((&trained["shift"], &trained["flip"]), (&2.into(), &true.into()));
    let evaluated = fixture.done("eval run --data data --json").last();
    assert_eq!(trained["test_accuracy"], evaluated["test_accuracy"]);
}

#[test]
fn what_cannot_be_augmented_is_refused() {
    let fixture = Fixture::new();
    let most = SIDE - 1;
    let texts = ["`--shift 8`", "8x8", &format!("help: use at most `--shift {most}`")];
    fixture.refused("train net.onnx --data data -o out.onnx --checkpoint run --shift 8", &texts);
    fixture.refused("compile net.onnx --data data -o net.ffc --shift 8", &texts);
    fixture.done(&format!("train net.onnx --data data --epochs 1 --shift {most}"));
    fixture.misused("train net.onnx --data data --shift -1", &["-1"]);
    fixture.misused("train net.onnx --data data --shift some", &["--shift"]);
    fixture.misused("train net.onnx --data data --flip=often", &["--flip"]);
    fixture.write("net.onnx", crate::fixture::network(2, 2));
    fixture.write("table.csv", "a,b,label\n".to_string() + &"1,2,0\n3,4,1\n".repeat(20));
    for flag in ["--shift 1", "--flip"] {
        let name = flag.split(' ').next().unwrap();
        let error = format!("`{name}` is for images; a sample of `table.csv` is 2 numbers without rows");
        let help = format!("help: leave out `{name}`, or give images");
        fixture.refused(&format!("train net.onnx --data table.csv {flag}"), &[&error, &help]);
    }
    fixture.done("train net.onnx --data table.csv --epochs 1 --shift 0 --flip=false");
}

#[test]
fn digits_may_be_shifted() {
    let fixture = Fixture::new();
    let model = crate::fixture::examples().join("mnist_mlp.onnx");
    let data = mnist();
    let line = format!(
        "train {} --data {} --limit-train 2000 --epochs 2 --shift 2 --json",
        model.display(),
        data.display()
    );
    let accuracy = fixture.done(&line).last()["test_accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.7, "{accuracy}");
}
