//! Images by class, from an archive to a trained network.

use std::fs::File;

use ffc::Failure;
use ffc::job::{self, Setting};
use ffc::options::TrainingArgs;
use ffc::source::Source;
use ffc::trainer::Trainer;
use ffc::training::{self, EpochReport, Observer};
use ffc_data::LoadOptions;

use crate::fixture::{Fixture, convolutional, digits, network};

const SIDE: usize = 6;
const CLASSES: [&str; 3] = ["ash", "birch", "cedar"];
/// Images of a class in each split.
const SAMPLES: [usize; 2] = [40, 12];

/// The images in colour by path: red is a digit, green its negative, blue is dark.
fn images() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for (split, (samples, seed)) in ["train", "test"].iter().zip(SAMPLES.into_iter().zip([1, 2])) {
        let (pixels, labels) = digits(samples * CLASSES.len(), SIDE, CLASSES.len(), seed);
        for (index, (pixels, label)) in pixels.chunks(SIDE * SIDE).zip(labels).enumerate() {
            let rgb: Vec<u8> = pixels.iter().flat_map(|&pixel| [pixel, 255 - pixel, pixel / 8]).collect();
            files.push((format!("{split}/{}/{index}.png", CLASSES[usize::from(label)]), png(SIDE, &rgb)));
        }
    }
    files
}

fn png(side: usize, rgb: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, side as u32, side as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(rgb).unwrap();
    file
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// With `images.tar`, the same as the folder `images`, and a network for them.
fn fixture() -> Fixture {
    let (fixture, images) = (Fixture::new(), images());
    fixture.write("images.tar", tar(&images));
    for (name, bytes) in &images {
        let path = fixture.path("images").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    fixture.write("net.onnx", network(3 * SIDE * SIDE, CLASSES.len()));
    fixture
}

/// The archive with one file changed, added or, without bytes, removed.
fn changed(fixture: &Fixture, name: &str, bytes: Option<&[u8]>) {
    let mut files = images();
    files.retain(|(known, _)| known != name && (bytes.is_some() || !known.starts_with(name)));
    files.extend(bytes.map(|bytes| (name.to_string(), bytes.to_vec())));
    fixture.write("images.tar", tar(&files));
}

#[test]
fn an_archive_trains_as_its_folder_does_and_is_decoded_once() {
    let fixture = fixture();
    let line = |data: &str| {
        format!("train net.onnx --data {data} --epochs 8 --batch-size 16 --shift 1 --flip --json")
    };
    let hash = |run: &crate::fixture::Run| run.last()["weights_hash"].clone();
    let first = fixture.done(&format!("{} --checkpoint run", line("images.tar")));
    assert_eq!(first.err, "", "progress is for terminals");
    assert!(first.last()["test_accuracy"].as_f64().unwrap() > 0.6, "{}", first.out);
    let kept = || std::fs::read_dir(fixture.cache.path()).unwrap().count();
    assert_eq!(kept(), 1);
    assert_eq!(hash(&fixture.done(&line("images.tar"))), hash(&first));
    assert_eq!(kept(), 1);
    assert_eq!(hash(&fixture.done(&line("images"))), hash(&first));
    assert_eq!(kept(), 2);
    assert_eq!(hash(&fixture.done_with("FFC_CACHE", "off", &line("images.tar"))), hash(&first));
    fixture.write("file", "");
    let warned = fixture.done_with("FFC_CACHE", "file", &line("images.tar"));
    assert_eq!(hash(&warned), hash(&first));
    assert!(
        warned.err.starts_with("warning: decoded images are not kept: 'file/images-tar-"),
        "{}",
        warned.err
    );
    assert!(
        warned.err.ends_with("\nhelp: name another folder with FFC_CACHE, or keep none with FFC_CACHE=off\n")
    );

    // The checkpoint keeps the names of the classes, and knows them again.
    let description = String::from_utf8(fixture.read("run/description.json")).unwrap();
    assert!(CLASSES.iter().all(|name| description.contains(&format!("\"{name}\""))), "{description}");
    let evaluated = fixture.done("eval run --data images --json").last();
    assert_eq!(evaluated["test_accuracy"], first.last()["test_accuracy"]);
    let of = |from: &str| from.replace("ash", "yew");
    let renamed: Vec<_> = images().into_iter().map(|(name, bytes)| (of(&name), bytes)).collect();
    fixture.write("renamed.tar", tar(&renamed));
    for line in ["eval run --data renamed.tar", "train run --data renamed.tar --checkpoint other"] {
        let texts =
            ["class `birch` has number 0 in `renamed.tar`, and 1 in the network's training data", "help: "];
        fixture.refused(line, &texts);
    }
}

#[test]
fn limits_keep_all_classes_and_each_channel_has_its_mean() {
    let fixture = fixture();
    let run = fixture.done("train net.onnx --data images.tar --epochs 1 --limit-train 9 --limit-test 6");
    let told = run.err.lines().find(|line| line.starts_with("images.tar: ")).unwrap();
    assert!(told.starts_with("images.tar: 9 training and 6 test samples, input (x * 0.003922 - ("), "{told}");
    let numbers: Vec<f32> = told
        .split(['(', ')'])
        .filter(|part| part.split(", ").count() == 3)
        .flat_map(|part| part.split(", ").map(|number| number.parse::<f32>().unwrap()))
        .collect();
    let [red, green, blue, deviations @ ..] = numbers.as_slice() else { panic!("{told}") };
    assert!((red + green - 1.0).abs() < 0.01 && (red / blue - 8.0).abs() < 0.5, "{told}");
    assert_eq!(deviations.len(), 3);
    fixture.done("train net.onnx --data images.tar --epochs 1 --input-mean 0.5,0.4,0.1 --input-std 0.2");
}

#[test]
fn what_is_wrong_with_images_is_named() {
    let fixture = fixture();
    let refused = |texts: &[&str]| {
        let run = fixture.refused("train net.onnx --data images.tar -o out.onnx --checkpoint run", texts);
        assert_eq!(run.err.lines().filter(|line| line.starts_with("help: ")).count(), 1, "{}", run.err);
        fixture.refused("eval net.onnx --data images.tar --scores scores", texts);
        let left = std::fs::read_dir(fixture.cache.path()).unwrap().count();
        assert_eq!(left, 0, "nothing is kept of what is refused");
    };
    changed(&fixture, "train/birch/1.png", Some(&png(7, &[0; 147])));
    refused(&["'images.tar: train/birch/1.png' has 7 x 7 pixels, but '", "' has 6 x 6"]);
    changed(&fixture, "train/birch/1.png", Some(b"\xff\xd8\xff\xe0\0\x10JFIF"));
    refused(&["'images.tar: train/birch/1.png' is no readable JPEG file: "]);
    changed(&fixture, "test/cedar", None);
    refused(&["'images.tar' lacks 'test/cedar'; it has 'train/cedar'"]);
    changed(&fixture, "train/oak/1.gif", Some(b"GIF89a"));
    refused(&["'images.tar: train/oak/1.gif' is no image"]);
    changed(&fixture, "train/birch/1.png", Some(&images()[0].1));
    let whole = fixture.read("images.tar");
    fixture.write("images.tar", &whole[..whole.len() - 1024]);
    refused(&["'images.tar' is truncated: "]);
    fixture.write("images.tar", "<html>");
    refused(&["'images.tar' is truncated: "]);
}

#[test]
fn images_of_another_size_than_the_network_s_are_refused() {
    let fixture = fixture();
    fixture.write("net.onnx", convolutional(8, 4, 1, CLASSES.len()));
    let texts = ["has 108 numbers (3x6x6)", "`pixels` wants 64", "help: "];
    for line in
        ["train net.onnx --data images.tar -o out.onnx --checkpoint run", "eval net.onnx --data images"]
    {
        fixture.refused(line, &texts);
    }
}

#[test]
fn what_was_there_before_a_refusal_stays() {
    let fixture = fixture();
    fixture.done("train net.onnx --data images.tar --epochs 1 --checkpoint run -o out.onnx");
    let kept =
        || ["run/weights.safetensors", "run/description.json", "out.onnx"].map(|name| fixture.read(name));
    let before = kept();
    changed(&fixture, "train/birch/1.png", Some(b"\xff\xd8\xff\xe0\0\x10JFIF"));
    let line = "train net.onnx --data images.tar --epochs 2 --checkpoint run --resume -o out.onnx";
    fixture.refused(line, &["'images.tar: train/birch/1.png' is no readable JPEG file: "]);
    assert!(kept() == before);
}

struct Nobody;

impl Observer for Nobody {
    fn step(&mut self, _: usize, _: usize, _: usize, _: f32) {}

    fn epoch(&mut self, _: &EpochReport, _: &Trainer) -> Result<(), Failure> {
        Ok(())
    }
}

/// Trains on images that are read from the file of decoded ones, if `in_memory` is 0; `damage` may do something to that
/// file when training is about to begin.
fn streamed(
    fixture: &Fixture,
    in_memory: u64,
    beside: bool,
    threads: usize,
    damage: impl FnOnce(&File),
) -> Result<String, Failure> {
    let args = TrainingArgs {
        epochs: Some(3),
        batch_size: Some(17),
        shift: Some(2),
        flip: Some(true),
        ..TrainingArgs::default()
    };
    let cache = Some(fixture.cache.path().to_owned());
    let load = LoadOptions { in_memory, cache, ..LoadOptions::default() };
    let setting = Setting { data: fixture.path("images.tar"), load, threads, ..Setting::default() };
    let source = Source::open(&fixture.path("net.onnx")).unwrap();
    let (mut job, data) = job::prepare(source, &args, &setting)?;
    assert_eq!(data.train.features.is_streamed(), in_memory == 0);
    let entry = std::fs::read_dir(fixture.cache.path()).unwrap().next().unwrap().unwrap();
    damage(&File::options().write(true).open(entry.path()).unwrap());
    job.plan.beside = beside;
    training::run(&mut job.trainer, &job.plan, &data.train, &data.test, &mut Nobody)?;
    job.trainer.weights_hash()
}

#[test]
fn images_read_from_a_file_give_the_same_bits() {
    let fixture = fixture();
    let in_memory = streamed(&fixture, u64::MAX, false, 1, |_| {}).unwrap();
    for (beside, threads) in [(false, 1), (true, 1), (true, 2)] {
        assert_eq!(streamed(&fixture, 0, beside, threads, |_| {}).unwrap(), in_memory, "{beside} {threads}");
    }
}

#[test]
fn a_file_that_is_cut_while_training_is_an_error() {
    for beside in [false, true] {
        // All images, or only those of the test split, which come last.
        for cut in [(SAMPLES[0] + SAMPLES[1]) * 3, 1] {
            let fixture = fixture();
            let cut = |file: &File| {
                let size = file.metadata().unwrap().len();
                file.set_len(size - (cut * 3 * SIDE * SIDE) as u64).unwrap();
            };
            let failure = streamed(&fixture, 0, beside, 1, cut).unwrap_err();
            assert!(failure.message.ends_with(".images' became shorter while it was used"), "{failure}");
            assert!(failure.help.unwrap().contains("start again"));
            // Next time it is made anew.
            streamed(&fixture, 0, beside, 1, |_| {}).unwrap();
        }
    }
}
