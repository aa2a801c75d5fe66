//! Images by class, in folders and archives.

use std::path::Path;

use ffc_data::{DataError, Dataset, LoadOptions, fuzz, load};
use png::{BitDepth, ColorType};

use super::build::{colour, folder, grey, gzip, jpeg, png, tar, write};
use super::{bytes, load_all, text};

/// Grey images of 2 x 1, each of its own colour.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    [
        ("train/dog/b.png", 21),
        ("train/cat/10.png", 11),
        ("train/dog/a.PNG", 20),
        ("train/cat/9.png", 12),
        ("train/cat/1.png", 10),
        ("test/dog/1.png", 31),
        ("test/cat/1.png", 30),
    ]
    .map(|(name, shade)| (name, grey([2, 1], &[shade, shade + 100])))
    .to_vec()
}

fn on_disk(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    folder(&files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect::<Vec<_>>())
}

fn from_tar(files: &[(&str, Vec<u8>)]) -> Result<Dataset, DataError> {
    fuzz::tar(&tar(files), &LoadOptions::default())
}

/// The text of the error for these files, as a folder and as an archive; both are refused for the same reason.
fn refusal(files: &[(&str, Vec<u8>)]) -> (String, Option<&'static str>) {
    let on_disk =
        on_disk(&files.iter().filter(|(name, _)| !name.ends_with('/')).cloned().collect::<Vec<_>>());
    for (name, _) in files.iter().filter(|(name, _)| name.ends_with('/')) {
        std::fs::create_dir_all(on_disk.path().join(name)).expect("the temporary folder is writable");
    }
    let error = load_all(on_disk.path()).expect_err("the files are wrong");
    let text = text(&error, on_disk.path()).replace(&on_disk.path().display().to_string(), "DATA");
    let archived = from_tar(files).expect_err("the files are wrong");
    let archived_text = archived.to_string().replace("fuzz: ", "").replace("fuzz", "DATA");
    assert_eq!(archived_text, text.replace("DATA: ", ""));
    assert_eq!(archived.help(), error.help());
    (text, error.help())
}

/// The same files with some of them changed or added.
fn with(changes: &[(&'static str, Vec<u8>)]) -> Vec<(&'static str, Vec<u8>)> {
    let mut files = files();
    files.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    files.extend_from_slice(changes);
    files
}

#[test]
fn classes_take_turns_in_the_order_of_names() {
    let folder = on_disk(&files());
    let dataset = load_all(folder.path()).unwrap();
    assert_eq!((dataset.shape.as_slice(), dataset.classes), (&[1, 1, 2][..], 2));
    assert_eq!(dataset.class_names, ["cat", "dog"]);
    assert_eq!(dataset.train.labels, [0, 1, 0, 1, 0]);
    assert_eq!(bytes(&dataset.train.features), [10, 110, 20, 120, 11, 111, 21, 121, 12, 112]);
    assert_eq!(
        (&dataset.test.labels[..], bytes(&dataset.test.features)),
        (&[0, 1][..], &[30, 130, 31, 131][..])
    );

    let options = LoadOptions { limit_train: Some(3), limit_test: Some(1), ..LoadOptions::default() };
    let limited = load(folder.path(), &options).unwrap();
    assert_eq!(limited.class_names, ["cat", "dog"]);
    assert_eq!((&limited.train.labels[..], &limited.test.labels[..]), (&[0, 1, 0][..], &[0][..]));
    assert_eq!(bytes(&limited.train.features), [10, 110, 20, 120, 11, 111]);
    assert_eq!(bytes(&limited.test.features), [30, 130]);
    let none = LoadOptions { limit_train: Some(0), ..LoadOptions::default() };
    assert_eq!(load(folder.path(), &none).unwrap_err().to_string(), "the train split has no samples");
}

#[test]
fn an_archive_is_the_same_data_set_in_any_order() {
    let expected = load_all(on_disk(&files()).path()).unwrap();
    let mut files = files();
    for _ in 0..files.len() {
        files.rotate_left(1);
        files.swap(0, 2);
        assert_eq!(from_tar(&files).unwrap(), expected);
    }
    let nested: Vec<_> =
        files.iter().map(|(name, bytes)| (format!("./my data/{name}"), bytes.clone())).collect();
    let nested: Vec<_> = nested.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    assert_eq!(from_tar(&nested).unwrap(), expected);
    let archive = tar(&nested);
    let folder = folder(&[("data.tar", &archive), ("data.tar.gz", &gzip(&archive)), ("data.tgz", &archive)]);
    for name in ["data.tar", "data.tar.gz", "data.tgz"] {
        assert_eq!(load_all(&folder.path().join(name)).unwrap(), expected, "{name}");
    }
}

#[test]
fn what_is_no_image_of_the_data_set_is_left_out() {
    let expected = load_all(on_disk(&files()).path()).unwrap();
    let junk = [
        ("LICENSE", b"text".to_vec()),
        ("val/bird/1.png", vec![]),
        ("train/labels.csv", b"1,2".to_vec()),
        ("train/cat/.DS_Store", vec![0]),
        ("train/cat/._1.png", vec![0]),
        ("test/.ipynb_checkpoints/1.png", vec![0]),
        ("__MACOSX/train/cat/1.png", vec![0]),
        (".hidden/train/cat/1.png", vec![0]),
    ];
    let files = with(&junk);
    assert_eq!(load_all(on_disk(&files).path()).unwrap(), expected);
    assert_eq!(from_tar(&files).unwrap(), expected);
}

/// The pixels of one image, `[C, H, W]`, in a data set of two.
fn decoded(image: Vec<u8>) -> Result<(Vec<usize>, Vec<u8>), String> {
    let files = [("train/a/1.png", image.clone()), ("test/a/1.jpg", image)];
    let dataset = from_tar(&files).map_err(|error| error.to_string())?;
    Ok((dataset.shape, bytes(&dataset.train.features).to_vec()))
}

#[test]
fn png_files_of_every_kind_become_planes_of_bytes() {
    let size = [2, 1];
    let of = |kind, depth, data: &[u8]| decoded(png(kind, depth, size, data)).unwrap();
    let (one, three) = (vec![1, 1, 2], vec![3, 1, 2]);
    assert_eq!(of(ColorType::Grayscale, BitDepth::Eight, &[7, 9]), (one.clone(), vec![7, 9]));
    assert_eq!(of(ColorType::Grayscale, BitDepth::One, &[0x40]), (one.clone(), vec![0, 255]));
    assert_eq!(of(ColorType::Grayscale, BitDepth::Sixteen, &[7, 1, 9, 2]), (one.clone(), vec![7, 9]));
    assert_eq!(of(ColorType::GrayscaleAlpha, BitDepth::Eight, &[7, 0, 9, 128]), (one, vec![7, 9]));
    let planes = (three, vec![1, 4, 2, 5, 3, 6]);
    assert_eq!(of(ColorType::Rgb, BitDepth::Eight, &[1, 2, 3, 4, 5, 6]), planes);
    assert_eq!(of(ColorType::Rgba, BitDepth::Eight, &[1, 2, 3, 0, 4, 5, 6, 9]), planes);
    let wide = [1, 99, 2, 99, 3, 99, 4, 99, 5, 99, 6, 99];
    assert_eq!(of(ColorType::Rgb, BitDepth::Sixteen, &wide), planes);
    assert_eq!(of(ColorType::Indexed, BitDepth::Eight, &[1, 0]).1, [40, 10, 50, 20, 60, 30]);
}

#[test]
fn jpeg_files_are_grey_or_coloured() {
    for progressive in [false, true] {
        let (shape, pixels) = decoded(jpeg([9, 5], &[200, 40, 90], progressive)).unwrap();
        assert_eq!(shape, [3, 5, 9]);
        for (plane, wanted) in pixels.chunks(45).zip([200_u8, 40, 90]) {
            assert!(plane.iter().all(|pixel| pixel.abs_diff(wanted) <= 2), "{plane:?}");
        }
        let (shape, pixels) = decoded(jpeg([9, 5], &[77], progressive)).unwrap();
        assert_eq!(shape, [1, 5, 9]);
        assert!(pixels.iter().all(|pixel| pixel.abs_diff(77) <= 1), "{pixels:?}");
    }
    let text = decoded(jpeg([8, 8], &[1, 2, 3, 4], false)).unwrap_err();
    assert!(text.starts_with("'fuzz: train/a/1.png' has the colours "), "{text}");
}

#[test]
fn grey_among_colours_becomes_colour_wherever_it_stands() {
    let grey = grey([2, 1], &[7, 9]);
    let red = colour([2, 1], &[200, 0, 1, 201, 2, 3]);
    let names = ["train/a/1.png", "train/a/2.png", "test/a/1.png"];
    for coloured in 0..3 {
        let image = |index| if index == coloured { red.clone() } else { grey.clone() };
        let files: Vec<_> = names.iter().enumerate().map(|(index, name)| (*name, image(index))).collect();
        for dataset in [from_tar(&files).unwrap(), load_all(on_disk(&files).path()).unwrap()] {
            assert_eq!(dataset.shape, [3, 1, 2]);
            let all = [bytes(&dataset.train.features), bytes(&dataset.test.features)].concat();
            for (index, pixels) in all.chunks(6).enumerate() {
                let wanted = if index == coloured { [200, 201, 0, 2, 1, 3] } else { [7, 9, 7, 9, 7, 9] };
                assert_eq!(pixels, wanted, "{index} of {coloured}");
            }
        }
    }
}

#[test]
fn many_images_on_many_threads() {
    let shade = |index: usize| [(index % 251) as u8, (index % 13) as u8];
    let names: Vec<String> = (0..3000).map(|index| format!("train/c/{index:04}.png")).collect();
    let mut files: Vec<_> =
        names.iter().enumerate().map(|(index, name)| (name.as_str(), grey([2, 1], &shade(index)))).collect();
    files.push(("test/c/1.png", grey([2, 1], &[1, 2])));
    let wanted: Vec<u8> = (0..3000).flat_map(shade).collect();
    assert_eq!(bytes(&from_tar(&files).unwrap().train.features), wanted);
    // Of several that are damaged, the first is named.
    files[700].1[20] ^= 1;
    files[2999].1.clear();
    files[2100].1.truncate(40);
    let text = from_tar(&files).unwrap_err().to_string();
    assert!(text.starts_with("'fuzz: train/c/0700.png' is no readable PNG file: "), "{text}");
}

#[test]
fn images_of_another_size() {
    let images =
        |first, second| [("train/a/1.png", first), ("train/a/2.png", second), ("test/a/1.png", vec![])];
    let (text, help) = refusal(&images(grey([1, 2], &[0, 0]), grey([2, 1], &[0, 0])));
    assert_eq!(text, "'train/a/2.png' has 2 x 1 pixels, but 'train/a/1.png' has 1 x 2");
    assert_eq!(help, Some("resize all images to one size"));
}

#[test]
fn damaged_images() {
    let whole = grey([2, 1], &[0, 0]);
    for (image, reason) in [
        (vec![], "is empty".to_owned()),
        (b"GIF89a".to_vec(), "is neither PNG nor JPEG".to_owned()),
        (whole[..30].to_vec(), "is no readable PNG file: ".to_owned()),
        (b"\xff\xd8\xff".to_vec(), "is no readable JPEG file: ".to_owned()),
    ] {
        let (text, help) = refusal(&with(&[("train/cat/1.png", image)]));
        assert!(text.starts_with(&format!("'train/cat/1.png' {reason}")), "{text}");
        assert_eq!(help, Some("fetch or write the file again"));
    }
}

#[test]
fn a_jpeg_file_that_ends_early_is_refused_wherever_that_is() {
    let (mut pixels, mut state) = (Vec::new(), 1_u32);
    for _ in 0..24 * 24 * 3 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        pixels.push((state >> 24) as u8);
    }
    for progressive in [false, true] {
        let mut file = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut file, 80);
        encoder.set_progressive(progressive);
        encoder.encode(&pixels, 24, 24, jpeg_encoder::ColorType::Rgb).unwrap();
        assert_eq!(fuzz::image(&file), Ok(24 * 24 * 3));
        // The last two bytes only say that it is over.
        for length in 0..file.len() - 2 {
            assert!(fuzz::image(&file[..length]).is_err(), "{length} of {} bytes, {progressive}", file.len());
        }
    }
}

#[test]
fn headers_that_promise_too_much() {
    let mut bomb = grey([1, 1], &[0]);
    bomb[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    let (text, help) = refusal(&with(&[("train/cat/1.png", bomb)]));
    assert_eq!(text, "'train/cat/1.png' has 16384 x 16384 pixels, more than 4096 on a side");
    assert!(help.unwrap().contains("scale the images down"));

    let mut bomb = jpeg([8, 8], &[1, 2, 3], false);
    let frame = bomb.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    bomb[frame + 5..frame + 9].fill(0xff);
    let (text, _) = refusal(&with(&[("train/cat/1.png", bomb)]));
    assert_eq!(text, "'train/cat/1.png' has 65535 x 65535 pixels, more than 4096 on a side");
}

fn crc32(data: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(data);
    crc.sum()
}

#[test]
fn classes_that_are_missing_or_empty() {
    let bird = ("train/bird/1.png", grey([2, 1], &[0, 0]));
    let (text, help) = refusal(&with(&[bird]));
    assert_eq!(text, "'DATA' lacks 'test/bird'; it has 'train/bird'");
    assert_eq!(help, Some("put every part of the data set beside the others"));
    let (text, _) = refusal(&with(&[("test/bird/1.png", vec![])]));
    assert_eq!(text, "'DATA' lacks 'train/bird'; it has 'test/bird'");
    let (text, help) = refusal(&with(&[("train/bird/", vec![]), ("test/bird/1.png", vec![])]));
    assert_eq!(text, "'DATA: train/bird' has no images");
    assert!(help.unwrap().contains("remove the folder from both"));
    let only_train: Vec<_> = files().into_iter().filter(|(name, _)| name.starts_with("train")).collect();
    assert_eq!(refusal(&only_train).0, "'DATA' lacks 'test'; it has 'train'");
    let error = from_tar(&[("cifar/data_batch_1.bin", vec![]), ("readme", vec![])]).unwrap_err();
    assert_eq!(error.to_string(), "'fuzz' has no folders 'train' and 'test'; it has 'cifar', 'readme'");
    assert!(error.help().unwrap().contains("unpack an archive of anything else"));
    assert_eq!(
        from_tar(&[]).unwrap_err().to_string(),
        "'fuzz' has no folders 'train' and 'test'; it has nothing"
    );
}

#[test]
fn images_that_would_be_lost() {
    for (name, reason) in [
        ("train/1.png", "is in no class"),
        ("train/cat/more/1.png", "is a folder in a class"),
        ("train/cat/notes.txt", "is no image"),
        ("test/dog/1.bmp", "is no image"),
    ] {
        let files = with(&[(name, grey([2, 1], &[0, 0]))]);
        let error = from_tar(&files).unwrap_err();
        assert_eq!(error.to_string(), format!("'fuzz: {name}' {reason}"));
        assert!(error.help().is_some());
        let on_disk = on_disk(&files);
        let text = text(&load_all(on_disk.path()).unwrap_err(), on_disk.path());
        assert!(text.ends_with(reason), "{text}");
    }
    let error = from_tar(&with(&[("a/train/cat/1.png", vec![]), ("b/test/cat/1.png", vec![])])).unwrap_err();
    assert_eq!(error.to_string(), "'fuzz' has images at its top and in 'a'");
    let twice = [files(), files()].concat();
    let error = from_tar(&twice).unwrap_err();
    assert_eq!(error.to_string(), "'fuzz: train/cat/1.png' is there twice");
}

#[test]
fn archives_that_end_early() {
    let whole = tar(&files());
    let data = whole.len() - 1024;
    for length in (0..=data).step_by(64) {
        let error = fuzz::tar(&whole[..length], &LoadOptions::default()).unwrap_err();
        let text = error.to_string();
        assert_eq!(
            text, "'fuzz' is truncated: it ends without the empty blocks that end an archive",
            "{length}"
        );
    }
    let compressed = gzip(&whole);
    for length in 20..compressed.len() {
        let error = fuzz::tar(&compressed[..length], &LoadOptions::default()).unwrap_err();
        assert!(error.to_string().contains("is truncated"), "{length}: {error}");
    }
    let mut damaged = compressed;
    let checksum = damaged.len() - 8;
    damaged[checksum] ^= 1;
    let text = fuzz::tar(&damaged, &LoadOptions::default()).unwrap_err().to_string();
    assert!(text.starts_with("'fuzz' is no readable tar archive: corrupt gzip stream"), "{text}");
    let text = fuzz::tar(&[b'<'; 2000], &LoadOptions::default()).unwrap_err().to_string();
    assert!(text.starts_with("'fuzz' is no readable tar archive: "), "{text}");
}

#[test]
fn a_name_without_end() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(64 << 20);
    header.set_path("././@LongLink").unwrap();
    header.set_cksum();
    archive.append(&header, std::io::Read::take(std::io::repeat(b'a'), 64 << 20)).unwrap();
    let bomb = gzip(&archive.into_inner().unwrap());
    let text = fuzz::tar(&bomb, &LoadOptions::default()).unwrap_err().to_string();
    assert_eq!(text, "'fuzz' is no readable tar archive: a name is longer than 1048576 bytes");
}

/// An archive with one member more, which has no content.
fn with_member(kind: tar::EntryType, name: &[u8], target: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files() {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes.as_slice()).expect("a vector takes all");
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_link_name(target).expect("the target fits");
    header.set_cksum();
    archive.append(&header, &[][..]).expect("a vector takes all");
    archive.into_inner().expect("a vector takes all")
}

#[test]
fn members_that_are_no_files() {
    use tar::EntryType::{Fifo, Link, Regular, Symlink};
    for (kind, name, text) in [
        (Symlink, &b"train/cat/2.png"[..], "'fuzz: train/cat/2.png' is a link"),
        (Link, b"train/cat/2.png", "'fuzz: train/cat/2.png' is a link"),
        (Symlink, b"test", "'fuzz: test' is a link"),
        (Fifo, b"test/cat/2.png", "'fuzz: test/cat/2.png' is not a regular file"),
        (Regular, b"train/c\xff/1.png", "'fuzz: train/c\u{fffd}/1.png' has a name that is not UTF-8"),
        (Regular, b"train/../../etc/passwd", "'fuzz' has a member whose path leads upwards"),
        (Regular, b"train/cat/\x1b[2J.gif", "'fuzz: train/cat/\\u{1b}[2J.gif' is no image"),
    ] {
        let error = fuzz::tar(&with_member(kind, name, "/etc/passwd"), &LoadOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), text);
        assert!(error.help().is_some());
    }
    let outside = with_member(Symlink, b"docs/link", "/etc/passwd");
    assert!(fuzz::tar(&outside, &LoadOptions::default()).is_ok());
}

#[cfg(unix)]
#[test]
fn links_on_disk_stay_in_the_folder() {
    use std::os::unix::fs::symlink;
    let folder = on_disk(&files());
    let at = |path: &str| folder.path().join(path);
    let other = on_disk(&files());
    let refused = |text: &str| {
        let error = load_all(folder.path()).unwrap_err();
        assert_eq!(error.to_string().replace(&format!("{}/", folder.path().display()), ""), text);
    };
    symlink(at("train/cat/1.png"), at("test/cat/2.png")).unwrap();
    symlink("cat", at("train/kitten")).unwrap();
    symlink("../test/cat", at("test/kitten")).unwrap();
    let dataset = load_all(folder.path()).unwrap();
    assert_eq!(dataset.class_names, ["cat", "dog", "kitten"]);
    assert_eq!((dataset.train.len(), dataset.test.len()), (8, 5));

    symlink(other.path().join("train/cat/1.png"), at("test/cat/3.png")).unwrap();
    refused("'test/cat/3.png' is a link out of the data set's folder");
    std::fs::remove_file(at("test/cat/3.png")).unwrap();
    symlink("nowhere", at("test/cat/3.png")).unwrap();
    refused("'test/cat/3.png' cannot be read: No such file or directory (os error 2)");
    std::fs::remove_file(at("test/cat/3.png")).unwrap();
    let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff.png");
    write(&at("test/cat").join(name), &grey([2, 1], &[0, 0]));
    refused("'test/cat/\u{fffd}.png' has a name that is not UTF-8");
}

/// A folder of the workplace beside the repository has the real one.
#[test]
fn cifar_10_as_jpeg_files() {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/cifar10.tar.gz");
    if !archive.exists() {
        assert!(
            std::env::var("FFC_REQUIRE").as_deref() != Ok("all"),
            "required: ../shared/data/cifar10.tar.gz"
        );
        eprintln!("SKIPPED: ../shared/data/cifar10.tar.gz is not there");
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let options = LoadOptions { cache: Some(cache.path().to_owned()), ..LoadOptions::default() };
    let dataset = load(&archive, &options).unwrap();
    assert_eq!(
        (dataset.train.len(), dataset.test.len(), dataset.shape.as_slice()),
        (50_000, 10_000, &[3, 32, 32][..])
    );
    assert!(dataset.train.features.is_streamed());
    assert_eq!(dataset.class_names[..3], ["airplane", "automobile", "bird"]);
    let statistics = dataset.statistics(dataset.default_scale()).unwrap();
    // What everybody writes down for CIFAR-10.
    for (found, wanted) in statistics.mean.iter().zip([0.4914, 0.4822, 0.4465]) {
        assert!((found - wanted).abs() < 0.003, "{statistics:?}");
    }
}
