//! Images in a folder.
//!
//! Links are followed as long as they stay in the folder: whoever gives a folder to be read means what is in it.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::layout::{self, Kind, Listing, Role};
use super::{Files, Image, Stop};
use crate::dataset::SplitName;
use crate::digest::{Digest, modified};
use crate::error::DataError;

/// See the [module documentation](self).
pub(crate) struct Folder {
    name: String,
    root: PathBuf,
    listing: Listing,
    key: Vec<u8>,
}

impl Folder {
    /// Lists the images in `root`, which is a folder.
    pub(crate) fn open(root: &Path) -> Result<Self, DataError> {
        let name = root.display().to_string();
        let real = root.canonicalize().map_err(|error| DataError::io(root, error))?;
        let mut walk =
            Walk { root: root.to_owned(), real, listing: Listing::default(), digest: Digest::new() };
        walk.folder(&mut Vec::new())?;
        let Walk { real, listing, digest, .. } = walk;
        let key = [real.as_os_str().as_encoded_bytes(), b"\nfolder ", digest.hex().as_bytes()].concat();
        Ok(Self { name, root: root.to_owned(), listing, key })
    }
}

/// A walk through the folders of a data set.
struct Walk {
    root: PathBuf,
    /// The root without links.
    real: PathBuf,
    listing: Listing,
    /// Of the names, sizes and times of all images.
    digest: Digest,
}

impl Walk {
    /// Notes what is in the folder at `path`, in the order of names.
    fn folder(&mut self, path: &mut Vec<Vec<u8>>) -> Result<(), DataError> {
        let place = self.place(path);
        let fail = |error| DataError::io(&place, error);
        let mut entries =
            fs::read_dir(&place).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(fail)?;
        entries.sort_unstable_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().as_encoded_bytes().to_vec();
            if path.is_empty() && layout::split(&name).is_none() {
                self.listing.add_other(&name);
                continue;
            }
            if layout::is_hidden(&name) {
                continue;
            }
            path.push(name);
            self.entry(path, &entry.path())?;
            path.pop();
        }
        Ok(())
    }

    fn entry(&mut self, path: &mut Vec<Vec<u8>>, place: &Path) -> Result<(), DataError> {
        let metadata = self.metadata(place)?;
        let kind = match metadata.file_type() {
            kind if kind.is_dir() => Kind::Folder,
            kind if kind.is_file() => Kind::File,
            _ => Kind::Special,
        };
        let parts: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
        let role = layout::role(&place.display().to_string(), &parts, kind)?;
        self.listing.add(role);
        match role {
            Role::Split(_) | Role::Class(..) => self.folder(path)?,
            Role::Image(..) => {
                parts.iter().for_each(|part| self.digest.add(part));
                self.digest.add(&metadata.len().to_le_bytes());
                self.digest.add(&modified(&metadata).to_le_bytes());
            }
            Role::Other => {}
        }
        Ok(())
    }

    /// What is at `place`, or where a link at it leads.
    fn metadata(&self, place: &Path) -> Result<Metadata, DataError> {
        let fail = |error| DataError::Io { file: place.display().to_string(), error };
        let metadata = fs::symlink_metadata(place).map_err(fail)?;
        if !metadata.is_symlink() {
            return Ok(metadata);
        }
        if !place.canonicalize().map_err(fail)?.starts_with(&self.real) {
            return Err(DataError::unsuitable(
                &place.display().to_string(),
                "is a link out of the data set's folder",
                "put the files themselves there",
            ));
        }
        fs::metadata(place).map_err(fail)
    }

    fn place(&self, path: &[Vec<u8>]) -> PathBuf {
        // Names that were no text have been refused.
        path.iter().fold(self.root.clone(), |place, part| place.join(&*String::from_utf8_lossy(part)))
    }
}

impl Files for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn listing(&mut self) -> Result<Listing, DataError> {
        Ok(self.listing.clone())
    }

    fn visit(&mut self, visit: &mut dyn FnMut(Image<'_>) -> Result<(), Stop>) -> Result<(), Stop> {
        for (split, classes) in [SplitName::Train, SplitName::Test].into_iter().zip(&self.listing.splits) {
            for (class, files) in classes.iter().flatten() {
                let folder = self.root.join(split.to_string()).join(class);
                for file in files {
                    let path = folder.join(file);
                    let name = path.display().to_string();
                    let content = &mut File::open(&path)
                        .map_err(|error| DataError::Io { file: name.clone(), error })?;
                    visit(Image { split, class, file, name, content })?;
                }
            }
        }
        Ok(())
    }
}
