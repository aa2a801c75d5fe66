//! Decoded samples are the main thing in memory: loading needs little more than their size, for
//! every format, and a file that promises more than it holds gets nothing.
//!
//! The allocator of this process counts, so everything is in one test.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use ffc_data::{DataError, Dataset, LoadOptions, load};
use flate2::Compression;
use flate2::write::GzEncoder;
use peak_alloc::PeakAlloc;
use rawzip::ZipArchiveWriter;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const SAMPLES: u32 = 4096;
const WIDTH: u32 = 1024;

/// What readers need besides the samples: buffers, decoders, the directory of an archive.
const OVERHEAD: usize = 512 << 10;

/// Loads the data set at `path`; returns the most memory that took, in bytes, too.
fn measure(path: &Path) -> (Result<Dataset, DataError>, usize) {
    measure_with(path, &LoadOptions::default())
}

fn measure_with(path: &Path, options: &LoadOptions) -> (Result<Dataset, DataError>, usize) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let result = load(path, options);
    (result, ALLOCATOR.peak_usage() - before)
}

/// Checks that loading `path` takes `sample_bytes` for each training sample, and little more.
fn check(path: &Path, sample_bytes: u32) {
    let (result, peak) = measure(path);
    let dataset = result.expect("the data set is valid");
    assert_eq!(dataset.train.len(), SAMPLES as usize);
    let size = (SAMPLES * sample_bytes) as usize;
    assert!(peak <= size + OVERHEAD, "{}: {peak} bytes for {size}", path.display());
}

fn gzip(path: &Path, header: &[u32], values: &[u8]) {
    let file = fs::File::create(path).expect("the temporary folder is writable");
    let mut encoder = GzEncoder::new(file, Compression::fast());
    let header: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
    encoder.write_all(&header).expect("the temporary folder is writable");
    encoder.write_all(values).expect("the temporary folder is writable");
    encoder.finish().expect("the temporary folder is writable");
}

fn npz(path: &Path) {
    let file = fs::File::create(path).expect("the temporary folder is writable");
    let mut archive = ZipArchiveWriter::new(file);
    for (name, descr, shape, bytes) in [
        ("x_train", "<f8", format!("({SAMPLES}, {WIDTH})"), SAMPLES * WIDTH * 8),
        ("y_train", "|u1", format!("({SAMPLES},)"), SAMPLES),
        ("x_test", "<f4", format!("(1, {WIDTH})"), WIDTH * 4),
        ("y_test", "|u1", "(1,)".to_owned(), 1),
    ] {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}");
        let name = format!("{name}.npy");
        let entry = archive.new_file(&name);
        let (mut entry, config) = entry.start().expect("the name fits");
        let mut writer = config.wrap(&mut entry);
        writer.write_all(b"\x93NUMPY\x01\x00").expect("the temporary folder is writable");
        writer.write_all(&(header.len() as u16).to_le_bytes()).expect("the folder is writable");
        writer.write_all(header.as_bytes()).expect("the temporary folder is writable");
        writer.write_all(&vec![0; bytes as usize]).expect("the temporary folder is writable");
        let (_, descriptor) = writer.finish().expect("the temporary folder is writable");
        entry.finish(descriptor).expect("the temporary folder is writable");
    }
    archive.finish().expect("the temporary folder is writable");
}

fn table(path: &Path) {
    let mut text = "label,split".to_owned();
    (0..WIDTH / 8).for_each(|column| write!(text, ",{column}").expect("a string takes all"));
    for row in 0..=SAMPLES {
        text += if row == 0 { "\n0,test" } else { "\n1,train" };
        (0..WIDTH / 8).for_each(|_| text += ",5");
    }
    fs::write(path, text).expect("the temporary folder is writable");
}

/// An archive of 12 images of 1 MiB, so many that they do not fit into what may be held at a time.
fn archive(path: &Path) {
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, 1024, 1024);
    encoder.set_color(png::ColorType::Grayscale);
    let pixels: Vec<u8> = (0..1_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(&pixels))
        .expect("a vector takes all");
    let mut tar = tar::Builder::new(fs::File::create(path).expect("the temporary folder is writable"));
    for name in
        (0..10).map(|i| format!("train/a/{i}.png")).chain(["test/a/1.png".into(), "test/a/2.png".into()])
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(png.len() as u64);
        tar.append_data(&mut header, name, png.as_slice()).expect("the temporary folder is writable");
    }
    tar.finish().expect("the temporary folder is writable");
}

#[test]
fn loading_takes_the_size_of_the_samples() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    gzip(&file("train-labels-idx1-ubyte.gz"), &[0x801, SAMPLES], &vec![3; SAMPLES as usize]);
    gzip(&file("t10k-labels-idx1-ubyte.gz"), &[0x801, 1], &[4]);
    gzip(&file("t10k-images-idx3-ubyte.gz"), &[0x803, 1, 1, WIDTH], &vec![0; WIDTH as usize]);
    let images = file("train-images-idx3-ubyte.gz");
    gzip(&images, &[0x803, SAMPLES, 1, WIDTH], &vec![5; (SAMPLES * WIDTH) as usize]);
    check(folder.path(), WIDTH);

    npz(&file("data.npz"));
    check(&file("data.npz"), 4 * WIDTH);

    table(&file("data.csv"));
    check(&file("data.csv"), WIDTH / 2);

    // 4096 x 2^20 pixels in a file of some kilobytes.
    gzip(&images, &[0x803, SAMPLES, 1024, 1024], &[0; 10]);
    let (result, peak) = measure(folder.path());
    assert!(matches!(result, Err(DataError::Truncated { promised: 0x1_0000_0000, .. })));
    assert!(peak < OVERHEAD, "{peak} bytes");

    archive(&file("images.tar"));
    let (dataset, peak) = measure(&file("images.tar"));
    let (size, batches) = (12 << 20, 10 << 20);
    assert_eq!(dataset.expect("the data set is valid").train.features.bytes_in_memory(), 10 << 20);
    assert!(peak <= size + batches, "{peak} bytes for {size}");
    // Streamed: however many images there are, two batches of them, and one image on each core.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = LoadOptions { in_memory: 0, cache: Some(file("cache")), ..LoadOptions::default() };
    let (first, peak) = measure_with(&file("images.tar"), &options);
    assert!(first.expect("the data set is valid").train.features.is_streamed());
    assert!(peak <= (9 << 20) + cores * (2 << 20), "{peak} bytes");
    let (second, peak) = measure_with(&file("images.tar"), &options);
    let second = second.expect("the data set is valid");
    assert!(peak <= OVERHEAD, "{peak} bytes");
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    second.statistics(1.0).expect("it can be read");
    assert!(ALLOCATOR.peak_usage() - before <= 2 << 20);
}
