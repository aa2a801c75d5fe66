//! One image: a PNG or JPEG file becomes `[C, H, W]` bytes.
//!
//! Which of both it is, its first bytes tell; names are often wrong. Transparency is dropped, 16 bits become 8, palettes
//! the colours in them, and grey becomes colour where that is asked for. What has no meaning in three channels (CMYK) is
//! refused. A file that ends early is refused too: decoders tend to fill the rest with grey, which nobody would notice.
//!
//! A header may promise anything, so sides are limited before anything is allocated.

use std::fmt;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use png::Transformations;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// The longest side of an image, in pixels.
const MAX_SIDE: usize = 4096;

const PNG_MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG_MAGIC: &[u8] = b"\xff\xd8";

/// What an image's header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Whether it has colours.
    pub(super) colour: bool,
    /// Rows.
    pub(super) height: usize,
    /// Columns.
    pub(super) width: usize,
}

/// Why an image cannot be decoded.
#[derive(Debug)]
pub(super) enum Fault {
    /// Its bytes are not what the format prescribes.
    Malformed(String),
    /// It is valid, and not taken; with the way out.
    Unsuitable(String, &'static str),
    /// It has this size instead of that.
    Size(Size, Size),
    /// It has colours, and one channel is asked for.
    Colour,
}

/// Columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(usize, usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.0, self.1)
    }
}

/// A decoder that has read the header.
enum Decoder<'a> {
    Png(Box<png::Reader<Cursor<&'a [u8]>>>),
    Jpeg(Box<JpegDecoder<ZCursor<&'a [u8]>>>),
}

/// The header of the image in `bytes`.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Fault> {
    guarded(|| open(bytes).map(|(header, _)| header))
}

/// Decodes the image in `bytes` into `out`, which has room for `[C, H, W]` bytes.
pub(super) fn decode(
    bytes: &[u8],
    [channels, height, width]: [usize; 3],
    out: &mut [u8],
) -> Result<(), Fault> {
    guarded(|| {
        let (header, decoder) = open(bytes)?;
        let (found, wanted) = (Size(header.width, header.height), Size(width, height));
        if found != wanted {
            return Err(Fault::Size(found, wanted));
        }
        if header.colour && channels == 1 {
            return Err(Fault::Colour);
        }
        let pixels = decoder.decode(header)?;
        spread(&pixels, header, out);
        Ok(())
    })
}

/// Decodes whatever image is in `bytes`; gives the number of bytes that takes.
pub(crate) fn any(bytes: &[u8]) -> Result<usize, String> {
    let decoded = header(bytes).and_then(|Header { colour, height, width }| {
        let shape = [if colour { 3 } else { 1 }, height, width];
        let mut out = vec![0; shape.iter().product()];
        decode(bytes, shape, &mut out).map(|()| out.len())
    });
    decoded.map_err(|fault| format!("{fault:?}"))
}

/// A decoder that panics has found bytes that its author did not think of: no reason to end the program.
fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    let broken = || Err(Fault::Malformed("cannot be decoded: its decoder gave up".to_owned()));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| broken())
}

fn open(bytes: &[u8]) -> Result<(Header, Decoder<'_>), Fault> {
    let (header, decoder) = if bytes.starts_with(PNG_MAGIC) {
        open_png(bytes)?
    } else if bytes.starts_with(JPEG_MAGIC) {
        open_jpeg(bytes)?
    } else {
        let reason = if bytes.is_empty() { "is empty" } else { "is neither PNG nor JPEG" };
        return Err(Fault::Malformed(reason.to_owned()));
    };
    check_size(header.width, header.height)?;
    Ok((header, decoder))
}

fn open_png(bytes: &[u8]) -> Result<(Header, Decoder<'_>), Fault> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(Transformations::normalize_to_color8());
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let info = decoder.read_header_info().map_err(png_fault)?;
    check_size(info.width as usize, info.height as usize)?;
    let reader = decoder.read_info().map_err(png_fault)?;
    let (info, (colours, _)) = (reader.info(), reader.output_color_type());
    let (height, width) = (info.height as usize, info.width as usize);
    Ok((Header { colour: colours.samples() >= 3, height, width }, Decoder::Png(Box::new(reader))))
}

fn open_jpeg(bytes: &[u8]) -> Result<(Header, Decoder<'_>), Fault> {
    // The header alone allocates nothing of the image's size, which is checked next.
    let side = usize::from(u16::MAX);
    let options = DecoderOptions::default().set_strict_mode(true).set_max_width(side).set_max_height(side);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(jpeg_fault)?;
    let (Some((width, height)), Some(colours)) = (decoder.dimensions(), decoder.input_colorspace()) else {
        return Err(Fault::Malformed("is a JPEG file without an image".to_owned()));
    };
    if !has_end(bytes) {
        return Err(Fault::Malformed("is a JPEG file that ends early".to_owned()));
    }
    let colour = match colours {
        ColorSpace::Luma => false,
        ColorSpace::YCbCr | ColorSpace::RGB => true,
        other => {
            let reason = format!("has the colours {other:?}");
            return Err(Fault::Unsuitable(reason, "convert it to RGB"));
        }
    };
    decoder.set_options(options.jpeg_set_out_colorspace(if colour {
        ColorSpace::RGB
    } else {
        ColorSpace::Luma
    }));
    Ok((Header { colour, height, width }, Decoder::Jpeg(Box::new(decoder))))
}

impl Decoder<'_> {
    /// The pixels, row by row, the channels of a pixel side by side.
    fn decode(self, header: Header) -> Result<Vec<u8>, Fault> {
        match self {
            Decoder::Png(mut reader) => {
                let (colours, _) = reader.output_color_type();
                let mut pixels = vec![0; header.height * header.width * colours.samples()];
                reader.next_frame(&mut pixels).map_err(png_fault)?;
                Ok(pixels)
            }
            Decoder::Jpeg(mut decoder) => {
                let channels = if header.colour { 3 } else { 1 };
                let mut pixels = vec![0; header.height * header.width * channels];
                decoder.decode_into(&mut pixels).map_err(jpeg_fault)?;
                Ok(pixels)
            }
        }
    }
}

/// Whether the image in a JPEG file, whose header has been read, is followed by the mark of its end. Its decoder misses up
/// to some dozen bytes at the end; and in an image's data there is no such mark by chance.
fn has_end(bytes: &[u8]) -> bool {
    let (mut at, is_end) = (JPEG_MAGIC.len(), |mark: &[u8]| mark == b"\xff\xd9");
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        match marker {
            0xda => return bytes[at..].windows(2).rev().any(is_end),
            0xff => at += 1,
            _ => at += 2 + usize::from(u16::from_be_bytes([high, low])),
        }
    }
    false
}

/// Takes the channels of `pixels` apart, into planes.
fn spread(pixels: &[u8], header: Header, out: &mut [u8]) {
    let area = header.height * header.width;
    let samples = pixels.len() / area;
    for (channel, plane) in out.chunks_exact_mut(area).enumerate() {
        let from = if header.colour { channel } else { 0 };
        plane.iter_mut().zip(pixels.chunks_exact(samples)).for_each(|(to, pixel)| *to = pixel[from]);
    }
}

fn check_size(width: usize, height: usize) -> Result<(), Fault> {
    if width == 0 || height == 0 {
        return Err(Fault::Malformed("has no pixels".to_owned()));
    }
    if width.max(height) > MAX_SIDE {
        let reason = format!("has {} pixels, more than {MAX_SIDE} on a side", Size(width, height));
        return Err(Fault::Unsuitable(reason, "scale the images down to what the network reads"));
    }
    Ok(())
}

fn png_fault(error: png::DecodingError) -> Fault {
    Fault::Malformed(format!("is no readable PNG file: {error}"))
}

fn jpeg_fault(error: DecodeErrors) -> Fault {
    if let DecodeErrors::Unsupported(_) = error {
        let help = "save it as a baseline or progressive JPEG file, or as PNG";
        return Fault::Unsuitable("is a JPEG file of a rare kind, lossless or arithmetic".to_owned(), help);
    }
    Fault::Malformed(format!("is no readable JPEG file: {}", error.to_string().trim_matches('"')))
}
