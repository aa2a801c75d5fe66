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
//! Numbers are little-endian. Section `program` is the [`Artifact`] without its code as JSON, `code.0`, `code.1` and so on
//! the machine code of its variants; all others are attachments, which the runtime hands through, but for
//! [`WEIGHTS_ATTACHMENT`].
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

const VERSION: u32 = 2;
const HEADER: usize = 24;
const ENTRY: usize = 24;
const SECTION_ALIGN: usize = 64;
const LONGEST_NAME: usize = 255;
const PROGRAM: &str = "program";
/// How the names of the variants' sections begin; their position follows.
const CODE: &str = "code.";

impl Artifact {
    /// The bytes of a `.ffc` file that holds this artifact and `attachments`, given by name.
    ///
    /// # Panics
    /// If two attachments share a name, or a name is empty, longer than 255 bytes, `program` or begins with `code.`.
    pub fn to_bytes(&self, attachments: &[(&str, &[u8])]) -> Vec<u8> {
        let program = serde_json::to_vec(self).expect("the description is plain data with string keys");
        let names: Vec<String> = (0..self.variants.len()).map(code_section).collect();
        let mut sections = vec![(PROGRAM, &program[..])];
        sections
            .extend(names.iter().zip(&self.variants).map(|(name, variant)| (&name[..], &variant.code[..])));
        for (index, (name, _)) in attachments.iter().enumerate() {
            assert!(is_attachment(name), "`{name}` is no name for an attachment");
            assert!(attachments[..index].iter().all(|(other, _)| other != name), "`{name}` is there twice");
        }
        sections.extend_from_slice(attachments);
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
        let mut artifact: Self = serde_json::from_slice(take(PROGRAM)?).map_err(ArtifactError::Program)?;
        for (index, variant) in artifact.variants.iter_mut().enumerate() {
            variant.code = take(&code_section(index))?.to_vec();
        }
        if let Some(name) = sections.keys().find(|name| !is_attachment(name)) {
            return Err(malformed(format!("section `{name}` belongs to no variant")));
        }
        artifact.validate()?;
        let attachments = sections.into_iter().map(|(name, data)| (name.to_string(), data.to_vec()));
        Ok((artifact, attachments.collect()))
    }
}

/// The name of the section of a variant's code.
fn code_section(variant: usize) -> String {
    format!("{CODE}{variant}")
}

/// Whether an attachment may have this name.
fn is_attachment(name: &str) -> bool {
    is_name(name) && name != PROGRAM && !name.starts_with(CODE)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{Element, Purpose, Schedule, Variant};
    use proptest::prelude::*;

    /// An artifact that does nothing, in three variants.
    fn artifact() -> Artifact {
        let variant = |name: &str| Variant {
            name: name.to_string(),
            features: Vec::new(),
            entries: Vec::new(),
            code: name.as_bytes().to_vec(),
        };
        let schedule = |purpose| Schedule { purpose, kernels: Vec::new() };
        Artifact {
            name: "nothing".to_string(),
            architecture: "x86_64".to_string(),
            batch: 1,
            infer_batch: 1,
            features: 1,
            input: Element::U8,
            classes: 1,
            trained_layers: Vec::new(),
            params: Vec::new(),
            buffers: Vec::new(),
            kernels: Vec::new(),
            schedules: [Purpose::Train, Purpose::Infer].map(schedule).to_vec(),
            arena_bytes: 0,
            state_bytes: 0,
            imports: Vec::new(),
            variants: ["best", "good", "portable"].map(variant).to_vec(),
        }
    }

    fn refusal(sections: &[(&str, &[u8])]) -> String {
        Artifact::from_bytes(&write(sections)).unwrap_err().to_string()
    }

    #[test]
    fn each_variant_has_its_section_and_no_section_is_without_variant() {
        let file = artifact().to_bytes(&[("note", b"text")]);
        let sections: Vec<_> = read(&file).unwrap().into_iter().collect();
        let names: Vec<_> = sections.iter().map(|section| section.0).collect();
        assert_eq!(names, ["code.0", "code.1", "code.2", "note", "program"]);
        assert_eq!(Artifact::from_bytes(&write(&sections)).unwrap().0, artifact());
        let without = [&sections[..1], &sections[2..]].concat();
        assert_eq!(refusal(&without), "malformed artifact: there is no section `code.1`");
        let one_more = [&sections[..], &[("code.3", b"more")]].concat();
        assert_eq!(refusal(&one_more), "malformed artifact: section `code.3` belongs to no variant");
        let nameless = [&sections[..], &[("code.", b"more")]].concat();
        assert_eq!(refusal(&nameless), "malformed artifact: section `code.` belongs to no variant");
    }

    proptest! {
        /// Sections lost, renamed, doubled and changed, with checksums that fit: refused, or read as they are.
        #[test]
        fn other_sections_are_refused_or_read(
            changes in prop::collection::vec((any::<prop::sample::Index>(), "code\\.[0-4]?|program|note|", 0..4u8), 1..4),
            bytes in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let file = artifact().to_bytes(&[("note", b"text")]);
            let mut sections: Vec<(String, Vec<u8>)> =
                read(&file).unwrap().into_iter().map(|(name, data)| (name.to_string(), data.to_vec())).collect();
            for (index, name, change) in changes {
                let at = index.index(sections.len());
                let section = &mut sections[at];
                match change {
                    0 => section.0 = name,
                    1 => section.1 = bytes.clone(),
                    2 => section.1.truncate(bytes.len()),
                    _ => sections.push((name, bytes.clone())),
                }
            }
            let sections: Vec<_> = sections.iter().map(|(name, data)| (&name[..], &data[..])).collect();
            if let Ok((read, attachments)) = Artifact::from_bytes(&write(&sections)) {
                prop_assert_eq!(read.variants.len() + attachments.len() + 1, sections.len());
                prop_assert!(read.validate().is_ok());
            }
        }
    }
}
