//! The same seed gives the same bits, whatever the number of threads and the size of batches at prediction.

use crate::fixture::Fixture;

fn hash(fixture: &Fixture, flags: &str) -> String {
    let line = format!("train net.onnx --data data --epochs 2 --json {flags}");
    fixture.done(&line).last()["weights_hash"].as_str().unwrap().to_string()
}

#[test]
fn training_is_a_function_of_the_seed() {
    let fixture = Fixture::new();
    for recipe in ["projection", "class-group", "ff-int8"] {
        let flags = format!("--recipe {recipe} --batch-size 37");
        let first = hash(&fixture, &flags);
        assert_eq!(first, hash(&fixture, &flags), "{recipe}");
        assert_eq!(first, hash(&fixture, &format!("{flags} --seed 1 --threads 2")), "{recipe}");
        assert_eq!(first, hash(&fixture, &format!("{flags} --threads 3 --limit-test 5")), "{recipe}");
        assert_ne!(first, hash(&fixture, &format!("{flags} --seed 2")), "{recipe}");
    }
    assert_eq!(hash(&fixture, "--precision float"), hash(&fixture, "--precision float"));
    assert_ne!(hash(&fixture, "--precision float"), hash(&fixture, "--precision float --seed 2"));
}

#[test]
fn scores_do_not_depend_on_the_batch() {
    let fixture = Fixture::new();
    let runs = [
        ("projection", "classifier"),
        ("projection", "heads"),
        ("class-group", "heads"),
        ("ff-int8", "labels"),
        ("ff-int8", "classifier"),
    ];
    for (index, (recipe, predict)) in runs.iter().enumerate() {
        let flags = format!("--recipe {recipe} --predict {predict} --batch-size 32");
        fixture.done(&format!(
            "train net.onnx --data data --epochs 1 {flags} --checkpoint run{index} -o out{index}.onnx"
        ));
        for model in [format!("run{index}"), format!("out{index}.onnx --precision float")] {
            let scores = |size: usize, threads: usize| {
                let flags = format!("--batch-size {size} --threads {threads}");
                fixture.done(&format!("eval {model} --data data {flags} --scores scores"));
                fixture.read("scores")
            };
            let one = scores(1, 1);
            assert_eq!(one.len(), 100 * 4 * 4);
            for (size, threads) in [(7, 1), (128, 1), (128, 2), (1000, 1)] {
                assert_eq!(one, scores(size, threads), "{model} {size}");
            }
        }
    }
}

#[test]
fn look_ahead_and_schedules_differ() {
    let fixture = Fixture::new();
    let off = hash(&fixture, "--recipe ff-int8 --look-ahead off");
    assert_ne!(off, hash(&fixture, "--recipe ff-int8"));
    // Without its weight it does nothing.
    assert_eq!(off, hash(&fixture, "--recipe ff-int8 --lambda-step 0"));
    assert_ne!(hash(&fixture, ""), hash(&fixture, "--schedule greedy"));
    assert_ne!(hash(&fixture, "--recipe ff-int8"), hash(&fixture, "--recipe ff-int8 --goodness sum"));
}

#[test]
fn greedy_order_improves_each_layer() {
    let fixture = Fixture::new();
    let run = fixture.done("train net.onnx --data data --epochs 3 --batch-size 16 --schedule greedy --json");
    let lines = run.json();
    let (summary, epochs) = lines.split_last().unwrap();
    assert_eq!((epochs.len(), &summary["epochs"]), (9, &9.into()));
    for (layer, epochs) in epochs.chunks(3).enumerate() {
        assert!(epochs.iter().all(|epoch| epoch["layer"] == layer), "{epochs:?}");
        let loss = |epoch: &serde_json::Value| epoch["train_loss"].as_f64().unwrap();
        assert!(loss(&epochs[2]) < loss(&epochs[0]), "layer {layer}: {epochs:?}");
    }
    assert!(summary["test_accuracy"].as_f64().unwrap() > 0.6, "{summary}");
}

#[test]
fn configuration_files_equal_flags() {
    let fixture = Fixture::new();
    let config = "recipe = \"ff-int8\"\nepochs = 1\nbatch-size = 16\nlearning-rate = 0.25\nlook-ahead = \"off\"\n\
        goodness = \"sum\"\nthreshold = 3.5\ninput-mean = [0.5]\nseed = 9\nwarmup-steps = 3\n";
    fixture.write("run.toml", config);
    let flags = "--recipe ff-int8 --epochs 1 --batch-size 16 --learning-rate 0.25 --look-ahead off --goodness sum \
        --threshold 3.5 --input-mean 0.5 --seed 9 --warmup-steps 3";
    let hash = |flags: &str| {
        let run = fixture.done(&format!("train net.onnx --data data --json {flags}")).last();
        (run["weights_hash"].clone(), run["epochs"].clone())
    };
    assert_eq!(hash(flags), hash("--config run.toml"));
    assert_ne!(hash(flags), hash("--config run.toml --learning-rate 0.5"));
    assert_eq!(hash("--config run.toml --epochs 2").1, 2);
}
