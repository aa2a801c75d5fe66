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
