//! `perplexity`: what formats cost on a text, as a table, JSON and a picture.

use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use llama::{
    Error, Result,
    cache::Place,
    perplexity::{self, Row},
    tokens::Tokens,
};
use wgpu_kv_cache::Format;

use super::{Loading, formats, print};

#[derive(Debug, Args)]
pub struct Perplexity {
    #[command(flatten)]
    loading: Loading,
    /// A text.
    text: PathBuf,
    /// Tokens that are predicted from one another: the text is cut into so many.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    cut: u32,
    /// Takes the first so many tokens of the text.
    #[arg(long)]
    tokens: Option<usize>,
    /// Formats in place of all pairs, separated by commas: `f16,q8_0/q4_0`.
    #[arg(long, value_delimiter = ',', value_parser = formats)]
    formats: Option<Vec<(Format, Format)>>,
    /// Takes what an earlier run with `--json` printed, of the same text, and measures the other formats.
    #[arg(long, value_name = "FILE.json", value_delimiter = ',')]
    with: Vec<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Draws perplexity over bits into an SVG file.
    #[arg(long)]
    picture: Option<PathBuf>,
}

impl Perplexity {
    pub fn run(&self) -> Result<()> {
        let mut rows = self.earlier()?;
        let formats = match &self.formats {
            Some(formats) => formats.clone(),
            None => {
                let keys = Format::ALL.into_iter();
                keys.flat_map(|keys| Format::ALL.map(|values| (keys, values))).collect()
            }
        };
        let is_missing = |(keys, values): &(Format, Format)| {
            !rows.iter().any(|row| row.keys == keys.to_string() && row.values == values.to_string())
        };
        let missing: Vec<(Format, Format)> = formats.into_iter().filter(is_missing).collect();
        if !missing.is_empty() {
            let measured = self.measure(&missing)?;
            rows.retain(|row| !measured.iter().any(|new| new.is_of(row)));
            rows.extend(measured);
        }
        if let Some(other) = rows.iter().find(|row| row.tokens != rows[0].tokens) {
            let rule = format!(
                "all rows must be of as many tokens, but some have {}, others {}",
                rows[0].tokens, other.tokens
            );
            return Err(Error::Argument { argument: "--with".to_owned(), rule });
        }
        rows.sort_by(|a, b| b.bits.total_cmp(&a.bits).then(a.divergence.total_cmp(&b.divergence)));
        if let Some(path) = &self.picture {
            std::fs::write(path, perplexity::picture(&rows)).map_err(io(path))?;
        }
        self.report(&rows)
    }

    /// What earlier runs measured.
    fn earlier(&self) -> Result<Vec<Row>> {
        let mut rows: Vec<Row> = Vec::new();
        for path in &self.with {
            let text = std::fs::read_to_string(path).map_err(io(path))?;
            let earlier: Vec<Row> = serde_json::from_str(&text).map_err(|error| Error::Argument {
                argument: path.display().to_string(),
                rule: format!("it must be what --json printed, but: {error}"),
            })?;
            for row in earlier {
                if !rows.iter().any(|known| known.is_of(&row)) {
                    rows.push(row);
                }
            }
        }
        Ok(rows)
    }

    /// Measures formats, and f32 beside them.
    fn measure(&self, formats: &[(Format, Format)]) -> Result<Vec<Row>> {
        let mut file = self.loading.open()?;
        let context = file.shape().context;
        if self.cut > context {
            let rule = format!("the model has no more than {context} positions");
            return Err(Error::Argument { argument: format!("--cut {}", self.cut), rule });
        }
        let text = std::fs::read_to_string(&self.text).map_err(io(&self.text))?;
        let mut tokens = Tokens::new(&file)?.encode(&text)?;
        tokens.truncate(self.tokens.unwrap_or(tokens.len()));
        if tokens.len() < 2 {
            let rule = format!("two tokens at least are needed, but there are {}", tokens.len());
            return Err(Error::Argument { argument: self.text.display().to_string(), rule });
        }
        // Every pair of formats gets a cache of its own; that of the engine is only where they take turns.
        let (wanted, first) = (self.loading.rows, formats[0]);
        let mut engine = self.loading.load(&mut file, self.cut, wanted, first, Place::Dense)?;
        let rows = perplexity::measure(&mut engine, &tokens, self.cut as usize, formats, |done| {
            eprint!("\r{done} of {} tokens", tokens.len());
        })?;
        eprintln!();
        Ok(rows)
    }

    fn report(&self, rows: &[Row]) -> Result<()> {
        if self.json {
            let json = serde_json::to_string_pretty(rows).expect("rows of numbers and names are always JSON");
            return print(&(json + "\n"));
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["keys", "values", "bits", "bytes a token", "perplexity", "same best", "divergence"]);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for row in rows {
            table.add_row([
                row.keys.clone(),
                row.values.clone(),
                format!("{:.2}", row.bits),
                row.bytes_per_token.to_string(),
                format!("{:.4}", row.perplexity),
                format!("{:.2} %", 100.0 * row.same_best),
                format!("{:.2e}", row.divergence),
            ]);
        }
        print(&format!("{table}\n"))
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}
