//! Images in an archive: `.tar`, plain or gzip.
//!
//! Nothing is unpacked. The archive is read twice, once for the names and once for the images, because the place of an
//! image is known when all names are. The data set may lie below one folder, as archives of a folder have it.
//!
//! The end of an archive is two empty blocks, which its reader does not insist on: an archive that was cut between two
//! members would just be smaller. So [`Guard`] watches what the reader sees. It also limits what the reader may take for
//! a name, which may be of any length.

use std::cell::Cell;
use std::io::{self, BufReader, Read, SeekFrom};
use std::path::Path;
use std::rc::Rc;

use ::tar::{Archive, EntryType};

use super::layout::{self, Kind, Listing, Role};
use super::{Files, Image, Stop};
use crate::digest::modified;
use crate::error::{DataError, escape};
use crate::source::{Bytes, Source, decoded};

/// The longest name with all that belongs to it, in bytes.
const LONGEST_NAME: u64 = 1 << 20;

/// See the [module documentation](self).
pub(crate) struct Tar<R> {
    name: String,
    reader: R,
    key: Vec<u8>,
}

impl Tar<std::fs::File> {
    /// Opens the archive at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let source = Source::open(path)?;
        let fail = |error| DataError::io(path, error);
        let real = path.canonicalize().map_err(fail)?;
        let time = modified(&source.reader.metadata().map_err(fail)?);
        let facts = format!("\nfile {} {time}", source.size);
        Ok(Self::new(source, [real.as_os_str().as_encoded_bytes(), facts.as_bytes()].concat()))
    }
}

/// A member of an archive that stands for something.
struct Member<'a> {
    role: Role<'a>,
    name: &'a str,
    content: &'a mut dyn Read,
}

impl<R: Bytes> Tar<R> {
    /// The archive in `source`, which `key` tells from all others.
    pub(crate) fn new(source: Source<R>, key: Vec<u8>) -> Self {
        let Source { name, reader, .. } = source;
        Self { name, reader, key }
    }

    /// Calls `visit` with every member that stands for something, and `other` with the first folder or file of the rest.
    fn walk(
        &mut self,
        other: &mut dyn FnMut(&[u8]),
        visit: &mut dyn FnMut(Member<'_>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let failed = |error| DataError::Io { file: self.name.clone(), error };
        self.reader.seek(SeekFrom::Start(0)).map_err(failed)?;
        let (reader, _) = decoded(BufReader::new(&mut self.reader)).map_err(failed)?;
        let seen = Rc::new(Seen::default());
        let mut archive = Archive::new(Guard { reader, seen: Rc::clone(&seen) });
        let fail = |error| archive_error(&self.name, &seen, error);
        let mut entries = archive.entries().map_err(fail)?;
        let mut below = None;
        loop {
            seen.budget.set(Some(LONGEST_NAME));
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(fail)?;
            seen.budget.set(None);
            let path = entry.path_bytes().into_owned();
            let name = format!("{}: {}", self.name, escape(&String::from_utf8_lossy(&path)));
            let parts: Vec<&[u8]> =
                path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && part != b".").collect();
            let kind = kind(entry.header().entry_type(), &path);
            match inside(&self.name, &parts, &mut below)? {
                Some(parts) => {
                    let role = layout::role(&name, parts, kind)?;
                    visit(Member { role, name: &name, content: &mut entry })?;
                }
                None => parts.first().into_iter().for_each(|first| other(first)),
            }
            // What is left of it would count as part of the next name.
            io::copy(&mut entry, &mut io::sink()).map_err(fail)?;
        }
        if seen.end.get() {
            return Err(truncated(&self.name).into());
        }
        // A checksum stands at the very end.
        seen.budget.set(None);
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(fail)?;
        Ok(())
    }
}

impl<R: Bytes> Files for Tar<R> {
    fn name(&self) -> &str {
        &self.name
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn listing(&mut self) -> Result<Listing, DataError> {
        let (mut listing, mut others) = (Listing::default(), Listing::default());
        let walked = self.walk(&mut |name| others.add_other(name), &mut |member| {
            listing.add(member.role);
            Ok(())
        });
        listing.others = others.others;
        walked.map(|()| listing).map_err(Stop::into_data)
    }

    fn visit(&mut self, visit: &mut dyn FnMut(Image<'_>) -> Result<(), Stop>) -> Result<(), Stop> {
        self.walk(&mut |_| {}, &mut |member| {
            let Role::Image(split, class, file) = member.role else { return Ok(()) };
            visit(Image { split, class, file, name: member.name.to_owned(), content: member.content })
        })
    }
}

/// The part of a path that lies in the data set, of which all is `below` one folder or none; `None` for other paths.
fn inside<'a, 'b>(
    name: &str,
    parts: &'b [&'a [u8]],
    below: &mut Option<Option<Vec<u8>>>,
) -> Result<Option<&'b [&'a [u8]]>, DataError> {
    if parts.iter().any(|part| layout::is_hidden(part) && *part != b"..") {
        return Ok(None);
    }
    let (folder, inside) = match parts {
        [first, ..] if layout::split(first).is_some() => (None, parts),
        [first, rest @ ..] if rest.first().is_some_and(|second| layout::split(second).is_some()) => {
            (Some(first.to_vec()), rest)
        }
        _ => return Ok(None),
    };
    if parts.contains(&&b".."[..]) {
        let reason = "has a member whose path leads upwards";
        return Err(DataError::unsuitable(name, reason, "write the archive again"));
    }
    let known = below.get_or_insert_with(|| folder.clone());
    if *known == folder {
        return Ok(Some(inside));
    }
    let place = |folder: &Option<Vec<u8>>| match folder {
        Some(folder) => format!("in '{}'", escape(&String::from_utf8_lossy(folder))),
        None => "at its top".to_owned(),
    };
    let reason = format!("has images {} and {}", place(known), place(&folder));
    Err(DataError::unsuitable(name, reason, "put one data set into an archive"))
}

fn kind(kind: EntryType, path: &[u8]) -> Kind {
    match kind {
        EntryType::Directory => Kind::Folder,
        EntryType::Regular if path.ends_with(b"/") => Kind::Folder,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Link | EntryType::Symlink => Kind::Link,
        _ => Kind::Special,
    }
}

/// What a [`Guard`] has seen, and how much more it lets pass.
#[derive(Default)]
struct Seen {
    /// Whether there was nothing more to read.
    end: Cell<bool>,
    /// Bytes that may still be read, if not all.
    budget: Cell<Option<u64>>,
}

/// See the [module documentation](self).
struct Guard<R> {
    reader: R,
    seen: Rc<Seen>,
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.reader.read(buffer);
        match &result {
            Ok(0) if !buffer.is_empty() => self.seen.end.set(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.seen.end.set(true),
            _ => {}
        }
        if let (Ok(read), Some(budget)) = (&result, self.seen.budget.get()) {
            let Some(left) = budget.checked_sub(*read as u64) else {
                let reason = format!("a name is longer than {LONGEST_NAME} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            };
            self.seen.budget.set(Some(left));
        }
        result
    }
}

/// What an error of the archive's reader means.
fn archive_error(name: &str, seen: &Seen, error: io::Error) -> DataError {
    if seen.end.get() {
        return truncated(name);
    }
    match read_error(name, error) {
        DataError::Malformed { reason, .. } => {
            DataError::malformed(name, format!("is no readable tar archive: {reason}"))
        }
        other => other,
    }
}

/// What an error in the middle of a file's content means.
pub(super) fn read_error(name: &str, error: io::Error) -> DataError {
    match error.raw_os_error() {
        Some(_) => DataError::Io { file: name.to_owned(), error },
        None => DataError::malformed(name, escape(&error.to_string())),
    }
}

fn truncated(name: &str) -> DataError {
    DataError::malformed(name, "is truncated: it ends without the empty blocks that end an archive")
}
