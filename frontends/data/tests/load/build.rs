//! Files in memory, as tests need them.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use rawzip::{CompressionMethod, ZipArchiveWriter};

/// An IDX file of unsigned bytes.
pub(crate) fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let rank = u8::try_from(dimensions.len()).expect("IDX has few dimensions");
    let mut file = vec![0, 0, 8, rank];
    file.extend(dimensions.iter().flat_map(|dimension| dimension.to_be_bytes()));
    file.extend(values);
    file
}

/// `bytes`, compressed.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

/// A NumPy array.
pub(crate) fn npy(descr: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    npy_header(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"), values)
}

/// A NumPy array with any header.
pub(crate) fn npy_header(header: &str, values: &[u8]) -> Vec<u8> {
    let length = u16::try_from(header.len()).expect("headers are short");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(length.to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(values);
    file
}

/// A zip file of these entries.
pub(crate) fn zip(entries: &[(&str, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut file = Vec::new();
    let mut archive = ZipArchiveWriter::new(&mut file);
    for (name, bytes) in entries {
        let entry = archive.new_file(name).compression_method(method);
        let (mut entry, config) = entry.start().expect("the name fits");
        let descriptor = if method == CompressionMethod::DEFLATE {
            let mut writer = config.wrap(DeflateEncoder::new(&mut entry, Compression::default()));
            writer.write_all(bytes).expect("a vector takes all");
            let (encoder, descriptor) = writer.finish().expect("a vector takes all");
            encoder.finish().expect("a vector takes all");
            descriptor
        } else {
            let mut writer = config.wrap(&mut entry);
            writer.write_all(bytes).expect("a vector takes all");
            writer.finish().expect("a vector takes all").1
        };
        entry.finish(descriptor).expect("a vector takes all");
    }
    archive.finish().expect("a vector takes all");
    file
}

/// A stored archive with these arrays.
pub(crate) fn npz(x_train: Vec<u8>, y_train: Vec<u8>, x_test: Vec<u8>, y_test: Vec<u8>) -> Vec<u8> {
    let entries =
        [("x_train.npy", x_train), ("y_train.npy", y_train), ("x_test.npy", x_test), ("y_test.npy", y_test)];
    zip(&entries, CompressionMethod::STORE)
}

/// Writes the files into a new folder.
pub(crate) fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    for (name, bytes) in files {
        write(&folder.path().join(name), bytes);
    }
    folder
}

/// Writes one file, and the folder it is in.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    let parent = path.parent().expect("a file is in a folder");
    std::fs::create_dir_all(parent).expect("the temporary folder is writable");
    std::fs::write(path, bytes).expect("the temporary folder is writable");
}

/// A PNG file of 8-bit samples, or 16-bit ones with `depth` 16.
pub(crate) fn png(
    kind: png::ColorType,
    depth: png::BitDepth,
    [width, height]: [u32; 2],
    data: &[u8],
) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(kind);
    encoder.set_depth(depth);
    if kind == png::ColorType::Indexed {
        encoder.set_palette(vec![10, 20, 30, 40, 50, 60]);
    }
    let mut writer = encoder.write_header().expect("a vector takes all");
    writer.write_image_data(data).expect("the data fills the image");
    writer.finish().expect("a vector takes all");
    file
}

/// A grey PNG file.
pub(crate) fn grey(size: [u32; 2], pixels: &[u8]) -> Vec<u8> {
    png(png::ColorType::Grayscale, png::BitDepth::Eight, size, pixels)
}

/// A PNG file in colour, of red, green, blue, red, ...
pub(crate) fn colour(size: [u32; 2], pixels: &[u8]) -> Vec<u8> {
    png(png::ColorType::Rgb, png::BitDepth::Eight, size, pixels)
}

/// A JPEG file of one colour, or grey where it is one number.
pub(crate) fn jpeg([width, height]: [u16; 2], colour: &[u8], progressive: bool) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut file, 100);
    encoder.set_progressive(progressive);
    let kind = match colour.len() {
        1 => jpeg_encoder::ColorType::Luma,
        3 => jpeg_encoder::ColorType::Rgb,
        _ => jpeg_encoder::ColorType::Cmyk,
    };
    let pixels = colour.repeat(usize::from(width) * usize::from(height));
    encoder.encode(&pixels, width, height, kind).expect("a vector takes all");
    file
}

/// A tar archive of these files, in this order; a name that ends with a slash is a folder.
pub(crate) fn tar(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(if name.ends_with('/') {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        archive.append_data(&mut header, name, bytes.as_slice()).expect("a vector takes all");
    }
    archive.into_inner().expect("a vector takes all")
}
