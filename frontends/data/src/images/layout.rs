//! What the names of files say: classes, labels, and the place of every image.
//!
//! Classes are numbered in the order of their names, byte by byte, as torchvision and keras do, so that a network trained
//! there keeps its numbers here. The classes of both splits are the same, or something is missing.
//!
//! Samples take turns: the first image of each class, then the second of each, a class's images in the order of their
//! names. So the first samples, which is what a limit keeps, hold all classes equally.

use std::collections::BTreeMap;

use crate::LoadOptions;
use crate::dataset::{MAX_CLASSES, SplitName};
use crate::error::{DataError, escape};

/// How many of a folder's names an error lists.
const NAMES_LISTED: usize = 10;

/// The names of a data set's images.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    /// Of each split, where there is such a folder: the images of each class.
    pub(super) splits: [Option<BTreeMap<String, Vec<String>>>; 2],
    /// Other names beside the splits, for errors.
    pub(super) others: Vec<String>,
}

/// What a path in a data set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    Link,
    Special,
}

/// What a path in a data set stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role<'a> {
    /// Nothing.
    Other,
    Split(SplitName),
    Class(SplitName, &'a str),
    Image(SplitName, &'a str, &'a str),
}

const SPLITS: [SplitName; 2] = [SplitName::Train, SplitName::Test];

/// The split with this folder.
pub(super) fn split(name: &[u8]) -> Option<SplitName> {
    SPLITS.into_iter().find(|split| split.to_string().as_bytes() == name)
}

/// Whether a file or folder is none of the data set's: hidden, or what macOS adds to archives.
pub(super) fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(b".") || name == b"__MACOSX"
}

/// What `path`, below the folder of the data set, stands for.
///
/// # Errors
///
/// If an image would be lost: it is in no class, too deep, a link, or in another format.
pub(super) fn role<'a>(name: &str, path: &[&'a [u8]], kind: Kind) -> Result<Role<'a>, DataError> {
    let refuse = |reason: &str, help| Err(DataError::unsuitable(name, reason, help));
    let Some(split) = path.first().and_then(|first| split(first)) else { return Ok(Role::Other) };
    if path.iter().any(|part| is_hidden(part)) {
        return Ok(Role::Other);
    }
    let text = |part: &'a [u8]| {
        let rename = |_| DataError::unsuitable(name, "has a name that is not UTF-8", "rename it");
        std::str::from_utf8(part).map_err(rename)
    };
    match (path, kind) {
        (_, Kind::Link) => {
            refuse("is a link", "put the file itself there: tar needs --dereference --hard-dereference")
        }
        ([_], Kind::Folder) => Ok(Role::Split(split)),
        ([_, class], Kind::Folder) => Ok(Role::Class(split, text(class)?)),
        ([_], _) => refuse("is no folder", "make it a folder with a folder for each class"),
        ([_, file], _) if is_image(file) => {
            refuse("is in no class", "put it into the folder of its class, as in train/cat/1.png")
        }
        ([_, _], _) => Ok(Role::Other),
        ([_, class, file], Kind::File) if is_image(file) => Ok(Role::Image(split, text(class)?, text(file)?)),
        ([_, _, _], Kind::File) => {
            refuse("is no image", "classes hold .png, .jpg and .jpeg files: convert or remove it")
        }
        ([_, _, _], Kind::Special) => refuse("is not a regular file", "remove it"),
        _ => refuse("is a folder in a class", "put its images into the folder of the class, or remove it"),
    }
}

fn is_image(file: &[u8]) -> bool {
    let end = file.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
    end.len() < file.len()
        && [&b"png"[..], b"jpg", b"jpeg"].iter().any(|known| end.eq_ignore_ascii_case(known))
}

impl Listing {
    /// Notes what a path stands for.
    pub(super) fn add(&mut self, role: Role<'_>) {
        let (split, class, file) = match role {
            Role::Other => return,
            Role::Split(split) => (split, None, None),
            Role::Class(split, class) => (split, Some(class), None),
            Role::Image(split, class, file) => (split, Some(class), Some(file)),
        };
        let classes = self.splits[split as usize].get_or_insert_default();
        let Some(class) = class else { return };
        if !classes.contains_key(class) {
            classes.insert(class.to_owned(), Vec::new());
        }
        if let (Some(file), Some(files)) = (file, classes.get_mut(class)) {
            files.push(file.to_owned());
        }
    }

    /// Notes a name beside the splits.
    pub(super) fn add_other(&mut self, name: &[u8]) {
        let name = format!("'{}'", escape(&String::from_utf8_lossy(name)));
        if self.others.len() < NAMES_LISTED && !self.others.contains(&name) {
            self.others.push(name);
        }
    }
}

/// Classes, labels and places.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// What errors call the data set.
    pub(super) name: String,
    /// The names of the classes, sorted.
    pub(super) classes: Vec<String>,
    /// The label of each sample, in order.
    pub(super) labels: [Vec<u16>; 2],
    /// Of each split and class, the names of the images, sorted, and beside them their samples.
    images: [Vec<Vec<(String, usize)>>; 2],
}

/// Where an image belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is this sample, counted through both splits.
    At(usize),
    /// It is beyond a limit.
    Beyond,
}

impl Layout {
    /// The layout of the images in `listing`.
    ///
    /// # Errors
    ///
    /// If a split or a class is missing in one of the splits or empty, or a name is there twice.
    pub(super) fn new(name: &str, listing: Listing) -> Result<Self, DataError> {
        let Listing { splits, others } = listing;
        let [train, test] = match splits {
            [Some(train), Some(test)] => [train, test],
            [Some(_), None] => return Err(incomplete(name, "'train'", "'test'")),
            [None, Some(_)] => return Err(incomplete(name, "'test'", "'train'")),
            [None, None] => return Err(no_splits(name, &others)),
        };
        let lacks = |of: &BTreeMap<String, _>, in_other: &BTreeMap<String, _>| {
            of.keys().find(|class| !in_other.contains_key(*class)).cloned()
        };
        for (has, lacks) in [("train", lacks(&train, &test)), ("test", lacks(&test, &train))] {
            if let Some(class) = lacks {
                let (class, other) = (escape(&class), if has == "train" { "test" } else { "train" });
                return Err(incomplete(name, &format!("'{has}/{class}'"), &format!("'{other}/{class}'")));
            }
        }
        let classes: Vec<String> = train.keys().cloned().collect();
        if let Some(class) = classes.get(MAX_CLASSES) {
            let label = format!("'{}'", escape(class));
            return Err(DataError::TooManyClasses { file: name.to_owned(), label });
        }
        let mut layout =
            Self { name: name.to_owned(), classes, labels: [vec![], vec![]], images: [vec![], vec![]] };
        for (split, classes) in SPLITS.into_iter().zip([train, test]) {
            layout.arrange(split, classes)?;
        }
        Ok(layout)
    }

    /// Gives every image of a split its sample.
    fn arrange(&mut self, split: SplitName, classes: BTreeMap<String, Vec<String>>) -> Result<(), DataError> {
        let mut images = Vec::with_capacity(classes.len());
        for (class, mut files) in classes {
            let path = |rest: &str| format!("{}: {split}/{}{rest}", self.name, escape(&class));
            if files.is_empty() {
                let help = "put .png, .jpg or .jpeg files there, or remove the folder from both splits";
                return Err(DataError::unsuitable(&path(""), "has no images", help));
            }
            files.sort_unstable();
            if let Some(pair) = files.windows(2).find(|pair| pair[0] == pair[1]) {
                let path = path(&format!("/{}", escape(&pair[0])));
                return Err(DataError::unsuitable(&path, "is there twice", "write the archive again"));
            }
            images.push(files.into_iter().map(|file| (file, 0)).collect::<Vec<_>>());
        }
        let mut sample = self.labels.iter().map(Vec::len).sum::<usize>();
        let labels = &mut self.labels[split as usize];
        let turns = images.iter().map(Vec::len).max().unwrap_or(0);
        for turn in 0..turns {
            for (label, files) in (0..=u16::MAX).zip(&mut images) {
                if let Some((_, place)) = files.get_mut(turn) {
                    *place = sample;
                    labels.push(label);
                    sample += 1;
                }
            }
        }
        self.images[split as usize] = images;
        Ok(())
    }

    /// The same with as many samples as the options want.
    pub(super) fn limited(mut self, options: &LoadOptions) -> Self {
        let all = self.labels[0].len();
        for (split, labels) in SPLITS.into_iter().zip(&mut self.labels) {
            labels.truncate(options.limit(split).unwrap_or(usize::MAX));
        }
        let [train, test] = self.samples();
        for (_, place) in self.images.iter_mut().flatten().flatten() {
            *place = match place.checked_sub(all) {
                None if *place < train => *place,
                Some(place) if place < test => train + place,
                _ => usize::MAX,
            };
        }
        self
    }

    /// Samples of each split.
    pub(super) fn samples(&self) -> [usize; 2] {
        self.labels.each_ref().map(Vec::len)
    }

    /// Where an image belongs.
    ///
    /// # Errors
    ///
    /// If it was not there when names were listed.
    pub(super) fn place(&self, split: SplitName, class: &str, file: &str) -> Result<Place, DataError> {
        let class = self.classes.binary_search_by(|known| known.as_str().cmp(class));
        let files = class.ok().and_then(|class| self.images[split as usize].get(class));
        let image = files.and_then(|files| {
            files.binary_search_by(|(known, _)| known.as_str().cmp(file)).ok().map(|index| files[index].1)
        });
        match image {
            Some(usize::MAX) => Ok(Place::Beyond),
            Some(place) => Ok(Place::At(place)),
            None => Err(self.changed()),
        }
    }

    /// The files are not those that were listed.
    pub(super) fn changed(&self) -> DataError {
        DataError::malformed(&self.name, "changed while it was read")
    }
}

fn incomplete(name: &str, present: &str, missing: &str) -> DataError {
    let (file, present, missing) = (name.to_owned(), present.to_owned(), missing.to_owned());
    DataError::Incomplete { file, present, missing }
}

fn no_splits(name: &str, others: &[String]) -> DataError {
    let found = if others.is_empty() { "nothing".to_owned() } else { others.join(", ") };
    DataError::unsuitable(
        name,
        format!("has no folders 'train' and 'test'; it has {found}"),
        "images are expected as train/<class>/*.png or *.jpg and test/<class>/..., in an archive perhaps below one \
         folder; unpack an archive of anything else, and give the folder",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(files: &[&str]) -> Listing {
        let mut listing = Listing::default();
        for file in files {
            let path: Vec<&[u8]> = file.split('/').map(str::as_bytes).collect();
            listing.add(role(file, &path, Kind::File).unwrap());
        }
        listing
    }

    #[test]
    fn classes_take_turns_and_limits_keep_the_first() {
        let files = [
            "train/b/2.png",
            "train/b/1.png",
            "train/a/x.jpg",
            "train/c/1.png",
            "train/b/3.png",
            "train/c/0.jpeg",
            "test/c/1.png",
            "test/a/1.PNG",
            "test/b/1.png",
        ];
        let layout = Layout::new("data", listing(&files)).unwrap();
        assert_eq!(layout.classes, ["a", "b", "c"]);
        assert_eq!(layout.labels, [vec![0, 1, 2, 1, 2, 1], vec![0, 1, 2]]);
        let at = |layout: &Layout, split, class, file| layout.place(split, class, file).unwrap();
        for (file, place) in ["1.png", "2.png", "3.png"].into_iter().zip([1, 3, 5]) {
            assert_eq!(at(&layout, SplitName::Train, "b", file), Place::At(place));
        }
        assert_eq!(at(&layout, SplitName::Test, "a", "1.PNG"), Place::At(6));
        assert_eq!(
            layout.place(SplitName::Test, "a", "2.png").unwrap_err().to_string(),
            "'data' changed while it was read"
        );

        let options = LoadOptions { limit_train: Some(4), limit_test: Some(1), ..LoadOptions::default() };
        let limited = layout.limited(&options);
        assert_eq!(limited.labels, [vec![0, 1, 2, 1], vec![0]]);
        assert_eq!(at(&limited, SplitName::Train, "b", "2.png"), Place::At(3));
        assert_eq!(at(&limited, SplitName::Train, "b", "3.png"), Place::Beyond);
        assert_eq!(at(&limited, SplitName::Test, "a", "1.PNG"), Place::At(4));
        assert_eq!(at(&limited, SplitName::Test, "b", "1.png"), Place::Beyond);
    }

    #[test]
    fn what_is_no_image_of_the_data_set_is_left_out_or_refused() {
        for (path, kind) in [
            ("README", Kind::File),
            ("val/cat/1.png", Kind::File),
            ("train/labels.csv", Kind::File),
            ("train/cat/.DS_Store", Kind::File),
            ("train/cat/._1.png", Kind::File),
            ("train/.ipynb_checkpoints", Kind::Folder),
            ("train/.ipynb_checkpoints/cat/1.png", Kind::File),
        ] {
            let parts: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
            assert_eq!(role(path, &parts, kind).unwrap(), Role::Other, "{path}");
        }
        for (path, kind, text) in [
            ("train/1.png", Kind::File, "is in no class"),
            ("train", Kind::File, "is no folder"),
            ("train/cat/notes.txt", Kind::File, "is no image"),
            ("train/cat/png", Kind::File, "is no image"),
            ("test/cat/more", Kind::Folder, "is a folder in a class"),
            ("test/cat/more/1.png", Kind::File, "is a folder in a class"),
            ("test/cat/1.png", Kind::Link, "is a link"),
            ("test/cat", Kind::Link, "is a link"),
            ("test/cat/1.png", Kind::Special, "is not a regular file"),
        ] {
            let parts: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
            let error = role(path, &parts, kind).unwrap_err();
            assert_eq!(error.to_string(), format!("'{path}' {text}"));
            assert!(error.help().is_some());
        }
        let error = role("?", &[b"train", b"c\xff", b"1.png"], Kind::File).unwrap_err();
        assert_eq!(error.to_string(), "'?' has a name that is not UTF-8");
    }
}
