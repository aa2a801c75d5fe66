//! Artifacts as files.
//!
//! A file is to be read by whoever finds it years later on another machine, and to be refused when a byte of it is not
//! what was written. So every byte is accounted for: by a checksum, or by being 0 between sections.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic |
//! | 4 | format version |
//! | 4 | number of sections |
//! | 4 | length of the section table |
//! | 4 | CRC-32 of the 20 bytes before and the section table |
//! | | section table: for each its offset (8), length (8), CRC-32 (4), length of the name (4), name |
//! | | the sections in the order of the table, each starting at the next multiple of 64, zeros between |
//!
//! Numbers are little-endian. Section `program` is the [`Artifact`] without its code as JSON, `code` the machine code;
//! all others are attachments, which the runtime hands through, but for [`WEIGHTS_ATTACHMENT`].
//!
//! The checksums find damage, not malice: **loading an artifact is running code**.

use std::collections::BTreeMap;

use crate::ArtifactError;
use crate::artifact::Artifact;

/// Attachments of an artifact by name.
pub type Attachments = BTreeMap<String, Vec<u8>>;

/// The attachment that holds the weights a session starts with, in the safetensors format: tensors by the names of
/// parameters (`f32`), or by the names of [`Session::state`](crate::Session::state) (as stored there).
pub const WEIGHTS_ATTACHMENT: &str = "weights.safetensors";

/// Like PNG's: a byte above 127, line ends that a text-mode copy would change, and an end of file for DOS.
const MAGIC: [u8; 8] = *b"\x89ffc\r\n\x1a\n";

const VERSION: u32 = 1;
const HEADER: usize = 24;
const ENTRY: usize = 24;
const SECTION_ALIGN: usize = 64;
const LONGEST_NAME: usize = 255;
const PROGRAM: &str = "program";
const CODE: &str = "code";

impl Artifact {
    /// The bytes of a `.ffc` file that holds this artifact and `attachments`, given by name.
    ///
    /// # Panics
    /// If two attachments share a name, or a name is empty, longer than 255 bytes, `program` or `code`.
    pub fn to_bytes(&self, attachments: &[(&str, &[u8])]) -> Vec<u8> {
        let program = serde_json::to_vec(self).expect("the description is plain data with string keys");
        let mut sections = vec![(PROGRAM, &program[..]), (CODE, &self.code[..])];
        sections.extend_from_slice(attachments);
        for (index, (name, _)) in sections.iter().enumerate() {
            assert!(is_name(name), "`{name}` is no name for an attachment");
            assert!(sections[..index].iter().all(|(other, _)| other != name), "`{name}` is there twice");
        }
        write(&sections)
    }

    /// Reads a `.ffc` file and [validates](Self::validate) what is in it.
    ///
    /// # Errors
    /// When the bytes are no artifact, of another format version, damaged, or describe a program that is not sound. Any
    /// bytes may be given: it neither panics nor allocates more than in proportion to them.
    pub fn from_bytes(bytes: &[u8]) -> Result<(Self, Attachments), ArtifactError> {
        let mut sections = read(bytes)?;
        let mut take = |name: &str| {
            sections.remove(name).ok_or_else(|| malformed(format!("there is no section `{name}`")))
        };
        let (program, code) = (take(PROGRAM)?, take(CODE)?);
        let mut artifact: Self = serde_json::from_slice(program).map_err(ArtifactError::Program)?;
        artifact.code = code.to_vec();
        artifact.validate()?;
        let attachments = sections.into_iter().map(|(name, data)| (name.to_string(), data.to_vec()));
        Ok((artifact, attachments.collect()))
    }
}

fn malformed(reason: impl Into<String>) -> ArtifactError {
    ArtifactError::Malformed(reason.into())
}

fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
}

fn write(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let table_length: usize = sections.iter().map(|(name, _)| ENTRY + name.len()).sum();
    let mut table = Vec::with_capacity(table_length);
    let mut end = HEADER + table_length;
    for (name, data) in sections {
        let offset = end.next_multiple_of(SECTION_ALIGN);
        table.extend((offset as u64).to_le_bytes());
        table.extend((data.len() as u64).to_le_bytes());
        table.extend(crc32fast::hash(data).to_le_bytes());
        table.extend((name.len() as u32).to_le_bytes());
        table.extend(name.as_bytes());
        end = offset + data.len();
    }
    let mut file = Vec::with_capacity(end);
    file.extend(MAGIC);
    file.extend([VERSION, sections.len() as u32, table_length as u32].map(u32::to_le_bytes).as_flattened());
    let checksum = header_checksum(&file, &table);
    file.extend(checksum.to_le_bytes());
    file.extend(table);
    for (_, data) in sections {
        file.resize(file.len().next_multiple_of(SECTION_ALIGN), 0);
        file.extend(*data);
    }
    file
}

fn header_checksum(fields: &[u8], table: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fields);
    hasher.update(table);
    hasher.finalize()
}

/// The sections by name, each checked.
fn read(file: &[u8]) -> Result<BTreeMap<&str, &[u8]>, ArtifactError> {
    let (count, mut table) = read_header(file)?;
    let mut end = HEADER + table.len();
    let mut sections = BTreeMap::new();
    for _ in 0..count {
        let entry = read_entry(&mut table).ok_or_else(|| malformed("the section table is cut short"))?;
        let name = std::str::from_utf8(entry.name).ok().filter(|name| is_name(name));
        let name = name.ok_or_else(|| malformed("the section table holds a name that is none"))?;
        let data = read_section(file, end, name, &entry)?;
        end = entry.offset as usize + data.len();
        if sections.insert(name, data).is_some() {
            return Err(malformed(format!("section `{name}` is there twice")));
        }
    }
    if !table.is_empty() || end != file.len() {
        return Err(malformed("there is something behind the last section"));
    }
    Ok(sections)
}

/// The number of sections and their table.
fn read_header(file: &[u8]) -> Result<(u32, &[u8]), ArtifactError> {
    let mut rest = file;
    if take(&mut rest, MAGIC.len()) != Some(&MAGIC) {
        return Err(ArtifactError::NotAnArtifact);
    }
    let mut field = || take_u32(&mut rest).ok_or_else(|| malformed("the header is cut short"));
    let version = field()?;
    if version != VERSION {
        return Err(ArtifactError::Version { found: version, supported: VERSION });
    }
    let (count, table_length, checksum) = (field()?, field()?, field()?);
    let table =
        take(&mut rest, table_length as usize).ok_or_else(|| malformed("the section table is cut short"))?;
    if header_checksum(&file[..HEADER - 4], table) != checksum {
        return Err(ArtifactError::Checksum("header".to_string()));
    }
    Ok((count, table))
}

struct Entry<'a> {
    offset: u64,
    length: u64,
    checksum: u32,
    name: &'a [u8],
}

fn read_entry<'a>(table: &mut &'a [u8]) -> Option<Entry<'a>> {
    let (offset, length) = (take_u64(table)?, take_u64(table)?);
    let (checksum, name_length) = (take_u32(table)?, take_u32(table)?);
    Some(Entry { offset, length, checksum, name: take(table, name_length as usize)? })
}

/// The data of a section that follows the byte at `end`.
fn read_section<'a>(
    file: &'a [u8],
    end: usize,
    name: &str,
    entry: &Entry<'_>,
) -> Result<&'a [u8], ArtifactError> {
    let start = end.next_multiple_of(SECTION_ALIGN);
    if entry.offset != start as u64 {
        return Err(malformed(format!("section `{name}` does not start where it should")));
    }
    let data = file.get(start..).and_then(|rest| rest.get(..usize::try_from(entry.length).ok()?));
    let data = data.ok_or_else(|| malformed(format!("section `{name}` is cut short")))?;
    if file[end..start].iter().any(|&byte| byte != 0) {
        return Err(malformed(format!("there is something between the sections before `{name}`")));
    }
    if crc32fast::hash(data) != entry.checksum {
        return Err(ArtifactError::Checksum(name.to_string()));
    }
    Ok(data)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes, 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes, 8)?.try_into().ok().map(u64::from_le_bytes)
}
