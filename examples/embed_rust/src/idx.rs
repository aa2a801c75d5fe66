//! Reads IDX files, the format in which MNIST ships: a magic with type and number of dimensions, the sizes as big-endian
//! 32-bit numbers, then the bytes. Plain or compressed with gzip.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use flate2::read::GzDecoder;

/// Images and their labels.
pub(crate) struct Dataset {
    images: Vec<u8>,
    features: usize,
    labels: Vec<u8>,
}

impl Dataset {
    /// Reads `SPLIT-images-idx3-ubyte` and `SPLIT-labels-idx1-ubyte`, each perhaps with `.gz`.
    pub(crate) fn read(folder: &Path, split: &str) -> io::Result<Self> {
        let (sizes, images) = read_file(folder, &format!("{split}-images-idx3-ubyte"))?;
        let (_, labels) = read_file(folder, &format!("{split}-labels-idx1-ubyte"))?;
        if sizes.first() != Some(&labels.len()) || labels.is_empty() {
            return Err(invalid(format!("{:?} images and {} labels", sizes.first(), labels.len())));
        }
        Ok(Self { images, features: sizes[1..].iter().product(), labels })
    }

    /// Number of images.
    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    /// All images, one after the other.
    pub(crate) fn images(&self) -> &[u8] {
        &self.images
    }

    /// The pixels of one image.
    pub(crate) fn image(&self, index: usize) -> &[u8] {
        &self.images[index * self.features..][..self.features]
    }

    /// What it shows.
    pub(crate) fn label(&self, index: usize) -> i32 {
        self.labels[index].into()
    }
}

fn read_file(folder: &Path, name: &str) -> io::Result<(Vec<usize>, Vec<u8>)> {
    let mut file = Vec::new();
    match File::open(folder.join(format!("{name}.gz"))) {
        Ok(compressed) => drop(GzDecoder::new(compressed).read_to_end(&mut file)?),
        Err(_) => {
            let plain = folder.join(name);
            file = fs::read(&plain).map_err(|error| invalid(format!("`{}`: {error}", plain.display())))?;
        }
    }
    parse(&file).ok_or_else(|| invalid(format!("`{name}` is not an IDX file of bytes")))
}

/// The sizes and the bytes.
fn parse(file: &[u8]) -> Option<(Vec<usize>, Vec<u8>)> {
    let (&[0, 0, 8, dimensions], rest) = file.split_first_chunk()? else { return None };
    let (sizes, data) = rest.split_at_checked(4 * usize::from(dimensions))?;
    let sizes: Vec<usize> =
        sizes.as_chunks().0.iter().map(|size| u32::from_be_bytes(*size) as usize).collect();
    let all = sizes.iter().try_fold(1usize, |all, &size| all.checked_mul(size))?;
    (data.len() == all && dimensions > 0).then(|| (sizes, data.to_vec()))
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mnist_is_read() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../mnist"));
        let test = Dataset::read(folder, "t10k").unwrap();
        assert_eq!((test.features, test.label(0)), (784, 7));
        assert_eq!(test.images().len(), test.len() * 784);
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(parse(&[0, 0, 8, 1, 0, 0, 0, 2, 5, 6]), Some((vec![2], vec![5, 6])));
        assert_eq!(parse(&[0, 0, 8, 1, 0, 0, 0, 3, 5, 6]), None);
        assert_eq!(parse(&[0, 0, 9, 1, 0, 0, 0, 2, 5, 6]), None);
        assert_eq!(parse(&[0, 0, 8, 0]), None);
        assert_eq!(parse(b""), None);
    }
}
