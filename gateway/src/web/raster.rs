//! A card as PNG, for those who show links and take no SVG.
//!
//! Fonts are part of the program, so that it looks the same everywhere; they
//! hold ASCII and little more, and what they lack is left out.

use std::sync::{Arc, LazyLock};

use tiny_skia::{Color, FillRule, Paint, Path, PathBuilder, Pixmap, Rect, Transform};
use tokio::sync::Semaphore;
use ttf_parser::{Face, OutlineBuilder};

use super::card::{Font, Shape};
use crate::reply::ApiError;

/// One is drawn at a time: whoever asks for many waits, and nobody else does.
static DRAWING: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));

struct Fonts {
    plain: Face<'static>,
    bold: Face<'static>,
    mono: Face<'static>,
}

static FONTS: LazyLock<Fonts> = LazyLock::new(|| {
    let face =
        |bytes| Face::parse(bytes, 0).expect("it is part of the program, and a test reads it");
    Fonts {
        plain: face(include_bytes!("../../web/fonts/plain.ttf")),
        bold: face(include_bytes!("../../web/fonts/bold.ttf")),
        mono: face(include_bytes!("../../web/fonts/mono.ttf")),
    }
});

/// A picture can't be drawn.
#[derive(Debug, thiserror::Error)]
enum RasterError {
    #[error("a picture of {0} by {1} can't be made")]
    Size(u32, u32),
    #[error("the picture can't be encoded")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the drawing ended early")]
    Ended(#[from] tokio::task::JoinError),
}

/// Draws shapes, each over those before, as a PNG of this size.
///
/// # Errors
/// 503 where there is no memory for it.
pub(super) async fn png(size: (u32, u32), shapes: Vec<Shape>) -> Result<Vec<u8>, ApiError> {
    let turn = Arc::clone(&DRAWING).acquire_owned().await;
    // The turn ends with the drawing, which goes on where the client leaves.
    let drawing = move || {
        let _turn = turn;
        draw(size, &shapes)
    };
    let drawn = tokio::task::spawn_blocking(drawing).await;
    let drawn = drawn.map_err(RasterError::from).flatten();
    drawn.map_err(|error| ApiError::internal("no_picture", &error))
}

fn draw((width, height): (u32, u32), shapes: &[Shape]) -> Result<Vec<u8>, RasterError> {
    let mut picture = Pixmap::new(width, height).ok_or(RasterError::Size(width, height))?;
    for shape in shapes {
        let (path, colour) = match shape {
            Shape::Rect {
                at,
                size,
                round,
                colour,
            } => (rect(*at, *size, *round), colour),
            Shape::Text {
                at,
                ends,
                size,
                font,
                colour,
                text,
            } => (line(*at, *ends, *size, *font, text), colour),
        };
        let mut paint = Paint::default();
        paint.set_color(colour_of(colour));
        if let Some(path) = path {
            let whole = Transform::identity();
            picture.fill_path(&path, &paint, FillRule::Winding, whole, None);
        }
    }
    let encoded = picture.encode_png();
    encoded.map_err(|error| RasterError::Encode(error.into()))
}

/// `#` and six hex digits; black where that is not so.
fn colour_of(text: &str) -> Color {
    let digits = text.strip_prefix('#').unwrap_or_default();
    let number = u32::from_str_radix(digits, 16).unwrap_or_default();
    let [_, red, green, blue] = number.to_be_bytes();
    Color::from_rgba8(red, green, blue, 255)
}

fn rect((x, y): (u32, u32), (width, height): (u32, u32), round: u32) -> Option<Path> {
    let (x, y, width, height) = (x as f32, y as f32, width as f32, height as f32);
    if round == 0 {
        return Some(PathBuilder::from_rect(Rect::from_xywh(
            x, y, width, height,
        )?));
    }
    let (r, right, bottom) = (round as f32, x + width, y + height);
    let mut path = PathBuilder::new();
    path.move_to(x + r, y);
    path.line_to(right - r, y);
    path.quad_to(right, y, right, y + r);
    path.line_to(right, bottom - r);
    path.quad_to(right, bottom, right - r, bottom);
    path.line_to(x + r, bottom);
    path.quad_to(x, bottom, x, bottom - r);
    path.line_to(x, y + r);
    path.quad_to(x, y, x + r, y);
    path.close();
    path.finish()
}

/// The outlines of a line of text that begins, or ends, at this point of its baseline.
fn line(at: (u32, u32), ends: bool, size: u32, font: Font, text: &str) -> Option<Path> {
    let face = match font {
        Font::Plain => &FONTS.plain,
        Font::Bold => &FONTS.bold,
        Font::Mono => &FONTS.mono,
    };
    let scale = size as f32 / f32::from(face.units_per_em());
    let glyphs = || text.chars().filter_map(|letter| face.glyph_index(letter));
    let advance = |glyph| f32::from(face.glyph_hor_advance(glyph).unwrap_or_default()) * scale;
    let width: f32 = glyphs().map(advance).sum();
    let begin = at.0 as f32 - if ends { width } else { 0.0 };
    let mut outline = Outline {
        path: PathBuilder::new(),
        origin: (begin, at.1 as f32),
        scale,
    };
    for glyph in glyphs() {
        face.outline_glyph(glyph, &mut outline);
        outline.origin.0 += advance(glyph);
    }
    outline.path.finish()
}

/// A glyph's outline at its place in the picture, where y goes down.
struct Outline {
    path: PathBuilder,
    origin: (f32, f32),
    scale: f32,
}

impl Outline {
    fn place(&self, x: f32, y: f32) -> (f32, f32) {
        (
            self.origin.0 + x * self.scale,
            self.origin.1 - y * self.scale,
        )
    }
}

impl OutlineBuilder for Outline {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.place(x1, y1), self.place(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2)) = (self.place(x1, y1), self.place(x2, y2));
        let (x, y) = self.place(x, y);
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fonts_hold_what_cards_say() {
        for face in [&FONTS.plain, &FONTS.bold, &FONTS.mono] {
            for letter in (' '..='~').chain(['·', '…', '\u{202f}']) {
                assert!(face.glyph_index(letter).is_some(), "{letter:?}");
            }
        }
    }

    #[test]
    fn text_is_drawn_where_it_is_to_stand() {
        let text = |x, ends| Shape::Text {
            at: (x, 40),
            ends,
            size: 30,
            font: Font::Plain,
            colour: "#ffffff",
            text: "Hl".into(),
        };
        let inked = |shape: Shape| {
            let ground = Shape::Rect {
                at: (0, 0),
                size: (200, 60),
                round: 0,
                colour: "#000000",
            };
            let png = draw((200, 60), &[ground, shape]).expect("drawn");
            let picture = Pixmap::decode_png(&png).expect("a PNG");
            let columns = (0..200_u32).filter(|x| {
                let pixel = |y| picture.pixel(*x, y).expect("within");
                (0..60).any(|y| pixel(y).red() > 127)
            });
            let columns: Vec<_> = columns.collect();
            (columns[0], columns[columns.len() - 1])
        };
        let (first, last) = inked(text(50, false));
        assert!((50..56).contains(&first) && last < 90, "{first} to {last}");
        let (first, last) = inked(text(150, true));
        assert!(
            first > 110 && (140..150).contains(&last),
            "{first} to {last}"
        );
    }

    #[test]
    fn colours_are_read_from_hex() {
        let colour = colour_of("#0e1316").to_color_u8();
        assert_eq!((colour.red(), colour.green(), colour.blue()), (14, 19, 22));
    }
}
