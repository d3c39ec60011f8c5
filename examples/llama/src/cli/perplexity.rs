//! `perplexity`: what formats cost on a text, as a table, JSON and a picture.

use std::path::PathBuf;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use llama::{Error, Result, perplexity, tokens::Tokens};
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
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Draws perplexity over bits into an SVG file.
    #[arg(long)]
    picture: Option<PathBuf>,
}

impl Perplexity {
    pub fn run(&self) -> Result<()> {
        let (file, mut engine) = self.loading.load(false, self.loading.rows)?;
        let io = |path: &PathBuf| {
            let path = path.clone();
            move |source| Error::Io { path, source }
        };
        let text = std::fs::read_to_string(&self.text).map_err(io(&self.text))?;
        let mut tokens = Tokens::new(&file)?.encode(&text)?;
        tokens.truncate(self.tokens.unwrap_or(tokens.len()));
        let positions = engine.model.sizes.positions;
        let window = self.cut.min(positions) as usize;
        if tokens.len() < 2 || window < 2 {
            let rule = format!("{} tokens in windows of {window}: two at least are needed", tokens.len());
            return Err(Error::Argument { argument: self.text.display().to_string(), rule });
        }
        let formats = match &self.formats {
            Some(formats) => formats.clone(),
            None => {
                let keys = Format::ALL.into_iter();
                keys.flat_map(|keys| Format::ALL.map(|values| (keys, values))).collect()
            }
        };
        let rows = perplexity::measure(&mut engine, &tokens, window, &formats, |done| {
            eprint!("\r{done} of {} tokens", tokens.len());
        })?;
        eprintln!();
        if let Some(path) = &self.picture {
            std::fs::write(path, perplexity::picture(&rows)).map_err(io(path))?;
        }
        if self.json {
            let json = serde_json::to_string_pretty(&rows).expect("rows of numbers and names are always JSON");
            return print(&(json + "\n"));
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["keys", "values", "bits", "bytes a token", "perplexity", "same best", "divergence"]);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for row in &rows {
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
