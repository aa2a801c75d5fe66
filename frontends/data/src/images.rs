//! Images as files, one folder a class: `train/<class>/*.png|jpg|jpeg` and `test/<class>/...`, in a folder or in an
//! archive.
//!
//! # Problem
//!
//! A data set is tens of thousands of small compressed files. Decoding them takes seconds to hours, and decoded they may
//! not fit into memory. Names, sizes and contents are somebody else's.
//!
//! # Idea
//!
//! ```text
//! names ──► layout (classes, labels, a place for every image) ──► decoding ──► cache file ──► training
//! ```
//!
//! The names come first ([`Files::listing`]): they are cheap, and what is wrong with them is told before anything is
//! decoded. They alone decide the order ([`layout`]), so that a folder, its archive, and the archive with its members in
//! another order are the same data set. Then every image is decoded once ([`decode`]) and put in its place, in a file
//! from which later runs read ([`cache`]), or in memory where there is no such file.
//!
//! Whether a data set has one channel or three is known when all images are: the first one decides, and where colour
//! comes after grey, decoding begins again, in colour.

mod cache;
mod decode;
mod folder;
mod layout;
mod tar;

use std::io::Read;
use std::panic::resume_unwind;
use std::thread;

use crate::dataset::{Dataset, Features, Split, SplitName};
use crate::error::DataError;
use crate::pixels::{FilePixels, Part, Pixels};
use crate::source::reserve;
use crate::{LoadOptions, Watcher};

pub(crate) use cache::parse as parse_cache_header;
pub(crate) use decode::any as decode_any;
pub(crate) use folder::Folder;
pub(crate) use tar::Tar;

use cache::{Cache, Contents, Writer};
use decode::Fault;
use layout::{Layout, Listing, Place};

/// The largest file of an image, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// Bytes of files, and of decoded images, that are held at a time, unless one image is larger.
const BATCH: usize = 4 << 20;

/// Where the files of a data set are.
pub(crate) trait Files {
    /// What errors call the data set.
    fn name(&self) -> &str;

    /// What changes when the files do, and tells them from those of any other data set.
    fn key(&self) -> &[u8];

    /// The classes and the names of their images.
    fn listing(&mut self) -> Result<Listing, DataError>;

    /// Calls `visit` with each image, in any order.
    fn visit(&mut self, visit: &mut dyn FnMut(Image<'_>) -> Result<(), Stop>) -> Result<(), Stop>;
}

/// The file of an image.
pub(crate) struct Image<'a> {
    pub(crate) split: SplitName,
    pub(crate) class: &'a str,
    pub(crate) file: &'a str,
    /// What errors call it.
    pub(crate) name: String,
    pub(crate) content: &'a mut dyn Read,
}

/// Why decoding stops.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The data set cannot be loaded.
    Data(DataError),
    /// An image has colours, and all before it were grey.
    Colour,
    /// The cache cannot be written.
    Cache(std::io::Error),
}

impl Stop {
    /// The error, where nothing else can be the reason.
    fn into_data(self) -> DataError {
        match self {
            Stop::Data(error) => error,
            Stop::Colour | Stop::Cache(_) => {
                unreachable!("names are only listed, or images decoded in colour, into memory")
            }
        }
    }
}

impl From<DataError> for Stop {
    fn from(error: DataError) -> Self {
        Stop::Data(error)
    }
}

/// Loads the images in `files`.
pub(crate) fn load(
    files: &mut dyn Files,
    options: &LoadOptions,
    watcher: &mut dyn Watcher,
) -> Result<Dataset, DataError> {
    let cache = options.cache.as_deref().map(|folder| Cache::new(folder, files.name(), files.key()));
    if let Some(contents) = cache.as_ref().and_then(Cache::open) {
        return contents.dataset(options);
    }
    let listing = files.listing()?;
    let layout = Layout::new(files.name(), listing)?;
    if let Some(cache) = &cache {
        match in_colour_or_not(|colour| into_cache(files, &layout, cache, colour, watcher)) {
            Err(Stop::Cache(error)) => {
                let place = cache.path().display().to_string();
                watcher.warn(&format!("decoded images are not kept: '{place}' cannot be written: {error}"));
            }
            result => return result.map_err(Stop::into_data)?.dataset(options),
        }
    }
    let layout = layout.limited(options);
    in_colour_or_not(|colour| into_memory(files, &layout, colour, watcher)).map_err(Stop::into_data)
}

/// Decodes images as grey ones, and again, in colour, where one of them has colours.
fn in_colour_or_not<T>(mut decode: impl FnMut(bool) -> Result<T, Stop>) -> Result<T, Stop> {
    match decode(false) {
        Err(Stop::Colour) => decode(true),
        result => result,
    }
}

fn into_cache(
    files: &mut dyn Files,
    layout: &Layout,
    cache: &Cache,
    colour: bool,
    watcher: &mut dyn Watcher,
) -> Result<Contents, Stop> {
    let create = |shape: [usize; 3]| cache.create(layout, shape).map_err(Stop::Cache);
    let put = |writer: &mut Writer, place, pixels: &[u8]| writer.put(place, pixels).map_err(Stop::Cache);
    let (writer, _) = Decoding::new(layout, colour, create, put, watcher).run(files)?;
    writer.finish().map_err(Stop::Cache)
}

fn into_memory(
    files: &mut dyn Files,
    layout: &Layout,
    colour: bool,
    watcher: &mut dyn Watcher,
) -> Result<Dataset, Stop> {
    let [train, test] = layout.samples();
    let create = |shape: [usize; 3]| {
        let room = |samples: usize| {
            let bytes = shape.iter().product::<usize>().saturating_mul(samples);
            let mut pixels = reserve::<u8>(&layout.name, bytes)?;
            pixels.resize(bytes, 0);
            Ok::<_, DataError>(pixels)
        };
        Ok([room(train)?, room(test)?])
    };
    let put = |[in_train, in_test]: &mut [Vec<u8>; 2], place: usize, pixels: &[u8]| {
        let (split, place) = place.checked_sub(train).map_or((in_train, place), |place| (in_test, place));
        split[place * pixels.len()..][..pixels.len()].copy_from_slice(pixels);
        Ok(())
    };
    let (pixels, shape) = Decoding::new(layout, colour, create, put, watcher).run(files)?;
    let split = |pixels: Vec<u8>, labels: &[u16]| Split {
        features: Features::U8(pixels.into()),
        labels: labels.to_vec(),
    };
    let ([train, test], classes) = (pixels, layout.classes.clone());
    let (train, test) = (split(train, &layout.labels[0]), split(test, &layout.labels[1]));
    Ok(Dataset::new(train, test, classes, shape.to_vec())?)
}

impl Contents {
    /// As much of the data set as is asked for, in memory where it is small.
    fn dataset(self, options: &LoadOptions) -> Result<Dataset, DataError> {
        let size: usize = self.shape.iter().product();
        let [all_train, all_test] = self.labels.each_ref().map(Vec::len);
        let train = options.limit_train.map_or(all_train, |limit| limit.min(all_train));
        let test = options.limit_test.map_or(all_test, |limit| limit.min(all_test));
        let keep = ((train + test) * size) as u64 <= options.in_memory;
        let split = |first: usize, count: usize, labels: &[u16]| {
            let offset = self.offset + (first * size) as u64;
            let part = Part::whole(&self.file, &self.name, offset, count * size);
            let pixels = FilePixels::new(vec![part]);
            let pixels = if keep { pixels.into_memory()? } else { Pixels::Files(pixels) };
            Ok::<_, DataError>(Split { features: Features::U8(pixels), labels: labels[..count].to_vec() })
        };
        let (train, test) = (split(0, train, &self.labels[0])?, split(all_train, test, &self.labels[1])?);
        Dataset::new(train, test, self.classes, self.shape.to_vec())
    }
}

/// Decodes all images of a layout, some at a time on all cores, and puts each in its place.
struct Decoding<'a, S, C, P> {
    layout: &'a Layout,
    /// Whether grey images become colour images.
    colour: bool,
    /// Makes the store for images of a shape.
    create: C,
    /// Puts an image into the store.
    put: P,
    watcher: &'a mut dyn Watcher,
    store: Option<(S, [usize; 3])>,
    /// The image that decides the shape.
    first: String,
    batch: Vec<Job>,
    /// Bytes of the files in the batch.
    bytes: usize,
    pixels: Vec<u8>,
    done: usize,
}

/// An image to decode.
struct Job {
    place: usize,
    name: String,
    bytes: Vec<u8>,
}

impl<'a, S, C, P> Decoding<'a, S, C, P>
where
    C: FnMut([usize; 3]) -> Result<S, Stop>,
    P: FnMut(&mut S, usize, &[u8]) -> Result<(), Stop>,
{
    fn new(layout: &'a Layout, colour: bool, create: C, put: P, watcher: &'a mut dyn Watcher) -> Self {
        let (first, batch, pixels) = (String::new(), Vec::new(), Vec::new());
        Self { layout, colour, create, put, watcher, store: None, first, batch, bytes: 0, pixels, done: 0 }
    }

    /// The store with all images in it, and their shape.
    fn run(mut self, files: &mut dyn Files) -> Result<(S, [usize; 3]), Stop> {
        files.visit(&mut |image| self.add(image))?;
        self.flush()?;
        let all: usize = self.layout.samples().iter().sum();
        match self.store {
            Some(store) if self.done == all => Ok(store),
            None if all == 0 => Err(DataError::EmptySplit { split: SplitName::Train }.into()),
            _ => Err(self.layout.changed().into()),
        }
    }

    fn add(&mut self, image: Image<'_>) -> Result<(), Stop> {
        let Place::At(place) = self.layout.place(image.split, image.class, image.file)? else {
            return Ok(());
        };
        let bytes = read(&image.name, image.content)?;
        self.bytes += bytes.len();
        self.batch.push(Job { place, name: image.name, bytes });
        let decoded = |shape: [usize; 3]| shape.iter().product::<usize>() * (self.batch.len() + 1);
        // The first image alone tells how large the others are.
        if self.bytes >= BATCH || self.store.as_ref().is_none_or(|&(_, shape)| decoded(shape) > BATCH) {
            self.flush()?;
        }
        Ok(())
    }

    /// Decodes what waits, each core some of it.
    fn flush(&mut self) -> Result<(), Stop> {
        let Some(job) = self.batch.first() else { return Ok(()) };
        if self.store.is_none() {
            let header = decode::header(&job.bytes).map_err(|fault| self.stop(job, fault))?;
            let shape = [if header.colour || self.colour { 3 } else { 1 }, header.height, header.width];
            self.first.clone_from(&job.name);
            self.store = Some(((self.create)(shape)?, shape));
        }
        let Some((store, shape)) = &mut self.store else { return Ok(()) };
        let (shape, size) = (*shape, shape.iter().product::<usize>());
        self.pixels.resize(self.batch.len() * size, 0);
        let fault = decode_all(&self.batch, shape, &mut self.pixels);
        if let Err((job, fault)) = fault {
            return Err(self.stop(&self.batch[job], fault));
        }
        for (job, pixels) in self.batch.iter().zip(self.pixels.chunks_exact(size)) {
            (self.put)(store, job.place, pixels)?;
        }
        self.done += self.batch.len();
        self.batch.clear();
        self.bytes = 0;
        let [train, test] = self.layout.samples();
        self.watcher.decoded(self.done, train + test);
        Ok(())
    }

    /// What a fault of an image means.
    fn stop(&self, job: &Job, fault: Fault) -> Stop {
        let name = job.name.as_str();
        Stop::Data(match fault {
            Fault::Colour => return Stop::Colour,
            Fault::Malformed(reason) => DataError::malformed(name, reason),
            Fault::Unsuitable(reason, help) => DataError::unsuitable(name, reason, help),
            Fault::Size(found, wanted) => DataError::unsuitable(
                name,
                format!("has {found} pixels, but '{}' has {wanted}", self.first),
                "resize all images to one size",
            ),
        })
    }
}

/// Decodes each image into its part of `pixels`; otherwise the first that cannot be decoded, and why.
fn decode_all(batch: &[Job], shape: [usize; 3], pixels: &mut [u8]) -> Result<(), (usize, Fault)> {
    let size: usize = shape.iter().product();
    let each = batch.len().div_ceil(thread::available_parallelism().map_or(1, usize::from));
    let decode = |first: usize, jobs: &[Job], pixels: &mut [u8]| {
        let mut images = jobs.iter().zip(pixels.chunks_exact_mut(size)).enumerate();
        images.try_for_each(|(index, (job, pixels))| {
            decode::decode(&job.bytes, shape, pixels).map_err(|fault| (first + index, fault))
        })
    };
    thread::scope(|scope| {
        let parts = batch.chunks(each).zip(pixels.chunks_mut(each * size)).enumerate();
        let threads: Vec<_> = parts
            .map(|(part, (jobs, pixels))| scope.spawn(move || decode(part * each, jobs, pixels)))
            .collect();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        Ok(())
    })
}

/// The bytes of an image's file.
fn read(name: &str, content: &mut dyn Read) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    content.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| tar::read_error(name, error))?;
    if bytes.len() as u64 > MAX_FILE {
        let reason = format!("is larger than {} MiB", MAX_FILE >> 20);
        return Err(DataError::unsuitable(name, reason, "scale the images down to what the network reads"));
    }
    Ok(bytes)
}
