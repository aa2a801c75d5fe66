//! Two decoders must agree: prost, which this crate uses, and rust-protobuf, which shares no code with it.
//!
//! Both read the same bytes by the same schema; rust-protobuf then writes what it read. On every model of the
//! collection and on truncations of the small ones, both fail, or what rust-protobuf wrote is what prost had
//! read.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use prost::Message;
use protobuf::reflect::{FileDescriptor, MessageDescriptor};

use crate::error::OnnxError;
use crate::limits::{Limits, ScanError, scan};
use crate::proto::ModelProto;

/// The message `onnx.ModelProto`, from the schema file itself.
fn other() -> MessageDescriptor {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
    let parsed = protobuf_parse::Parser::new()
        .pure()
        .include(&folder)
        .input(folder.join("onnx.proto"))
        .parse_and_typecheck()
        .unwrap();
    let file = parsed.file_descriptors.into_iter().next().unwrap();
    let file = FileDescriptor::new_dynamic(file, &[]).unwrap();
    file.message_by_full_name(".onnx.ModelProto").unwrap()
}

/// rust-protobuf takes a message that ends early for a whole one where the cut falls between two of its fields. Only
/// there, which our own [`scan`] must confirm, may it read what prost refuses.
fn agree(other: &MessageDescriptor, bytes: &[u8]) -> bool {
    let ours = ModelProto::decode(bytes);
    let mut message = other.new_instance();
    let theirs = message.merge_from_bytes_dyn(bytes).map(|()| message.write_to_bytes_dyn().unwrap());
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => ModelProto::decode(theirs.as_slice()).is_ok_and(|theirs| theirs == ours),
        (Ok(_), Err(_)) => false,
        (Err(_), Err(_)) => true,
        (Err(_), Ok(_)) => matches!(
            scan(std::io::Cursor::new(bytes), bytes.len() as u64, &Limits::default()),
            Err(ScanError::Model(OnnxError::Truncated { .. }))
        ),
    }
}

fn unpacked(path: &Path) -> Vec<u8> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return std::fs::read(path).unwrap();
    }
    let mut bytes = Vec::new();
    lzma_rs::xz_decompress(&mut BufReader::new(std::fs::File::open(path).unwrap()), &mut bytes).unwrap();
    bytes
}

/// Model files in the collection and in this crate's tests.
fn models() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [here.join("../../../shared/models"), here.join("tests/data")];
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let paths = files.map(|entry| entry.unwrap().path());
    let mut models: Vec<PathBuf> = paths
        .filter(|path| {
            let name = path.to_string_lossy();
            name.ends_with(".onnx") || name.ends_with(".onnx.xz")
        })
        .collect();
    models.sort();
    models
}

#[test]
fn decoders_agree() {
    let collection = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models");
    if !collection.is_dir() {
        assert!(std::env::var("FFC_REQUIRE").as_deref() != Ok("all"), "required: ../shared/models");
        eprintln!("SKIPPED in part: ../shared/models is not there");
    }
    let other = other();
    for path in models() {
        let bytes = unpacked(&path);
        assert!(ModelProto::decode(bytes.as_slice()).is_ok(), "{}", path.display());
        assert!(agree(&other, &bytes), "{}", path.display());
        // Every length of a small file; of larger ones some, as each costs a decoding.
        let step = match bytes.len() {
            ..10_000 => 1,
            10_000..3_000_000 => bytes.len() / 100,
            _ => continue,
        };
        for end in (0..bytes.len()).step_by(step) {
            assert!(agree(&other, &bytes[..end]), "{} cut at {end}", path.display());
        }
    }
}
