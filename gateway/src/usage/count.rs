//! Counts: what a provider's own numbers mean as [`Counts`].
//!
//! Providers name the same things differently and draw the lines between them
//! differently. The names decide which rule applies, because servers speak
//! one another's languages; PROTOCOL.md lists the rules.

use protocol::record::Counts;

use super::Dialect;

/// A number in a provider's usage, by the provider's own name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Prompt,
    Completion,
    Input,
    Output,
    Total,
    /// `cached_tokens` of the input's details.
    Cached,
    /// `cache_write_tokens` of the input's details.
    CacheWrite,
    /// `reasoning_tokens` of the output's details.
    Reasoning,
    /// `thinking_tokens` of the output's details.
    Thinking,
    CacheHit,
    /// `cached_tokens` of the usage itself.
    CachedFlat,
    CacheRead,
    CacheCreation,
    IterationInput,
    IterationOutput,
    IterationCacheRead,
    IterationCacheCreation,
    PromptCount,
    CandidatesCount,
    ResponseCount,
    ThoughtsCount,
    ToolCount,
    CachedCount,
    TotalCount,
    TotalInput,
    TotalOutput,
    TotalThought,
    TotalTool,
    TotalCached,
    CohereInput,
    CohereOutput,
    BilledInput,
    BilledOutput,
    PromptEval,
    Eval,
    Vertex,
}

const FIELDS: usize = Field::Vertex as usize + 1;

/// A provider's usage in its own terms: one event's, or merged over an answer.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Bit n is set if the field n was stated; the others' values are stale.
    stated: u64,
    values: [u32; FIELDS],
    /// Something in it makes no sense, so nothing of it counts.
    refused: bool,
    /// It is counted in seconds or the like.
    other_unit: bool,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            stated: 0,
            values: [0; FIELDS],
            refused: false,
            other_unit: false,
        }
    }

    pub(super) fn clear(&mut self) {
        self.stated = 0;
        self.refused = false;
        self.other_unit = false;
    }

    /// Whether it says nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        self.stated == 0 && !self.refused && !self.other_unit
    }

    pub(super) fn refuse(&mut self) {
        self.refused = true;
    }

    pub(super) fn other_unit(&mut self) {
        self.other_unit = true;
    }

    pub(super) fn set(&mut self, field: Field, count: u32) {
        self.stated |= 1 << field as u64;
        self.values[field as usize] = count;
    }

    pub(super) fn add(&mut self, field: Field, count: u32) {
        match self.of(field).unwrap_or(0).checked_add(count) {
            Some(sum) => self.set(field, sum),
            None => self.refuse(),
        }
    }

    /// Takes in what a later event of the same answer states. Counters are
    /// cumulative, and compatible servers restate them as 0: the largest holds.
    pub(super) fn merge(&mut self, later: &Self) {
        let mut left = later.stated;
        while left != 0 {
            let field = left.trailing_zeros() as usize;
            left &= left - 1;
            let known = if self.stated >> field & 1 == 1 {
                self.values[field]
            } else {
                0
            };
            self.values[field] = known.max(later.values[field]);
        }
        self.stated |= later.stated;
        self.refused |= later.refused;
        self.other_unit |= later.other_unit;
    }

    fn of(&self, field: Field) -> Option<u32> {
        (self.stated >> field as u64 & 1 == 1).then(|| self.values[field as usize])
    }

    fn states(&self, fields: &[Field]) -> bool {
        fields.iter().any(|&field| self.of(field).is_some())
    }

    /// What it comes to; absent if it counts no tokens or makes no sense.
    /// `cached` is what a response header says was read from the cache.
    pub(super) fn reading(&self, dialect: Dialect, cached: Option<u32>) -> Option<Reading> {
        if self.refused || self.other_unit {
            return None;
        }
        let sums = self.sums(dialect, cached);
        let narrow = |count: Option<u64>| count.map(u32::try_from).transpose().ok();
        let counts = Counts {
            input: narrow(sums.input)?,
            cache_read: narrow(sums.cache_read)?,
            cache_write: narrow(sums.cache_write)?,
            // Who counts the input and says nothing of output had none.
            output: narrow(sums.output.or(sums.input.and(Some(0))))?,
            reasoning: narrow(sums.reasoning)?,
        };
        if counts.input.is_none() && counts.output.is_none() {
            return None;
        }
        let sum = sums.input.map(|input| input + sums.output.unwrap_or(0));
        let off = sums.total.zip(sum).is_some_and(|(total, sum)| total != sum);
        Some(Reading {
            counts,
            inconsistent: off || counts.contradict(),
        })
    }

    fn sums(&self, dialect: Dialect, cached: Option<u32>) -> Sums {
        use Field as F;
        if self.states(&[
            F::PromptCount,
            F::CandidatesCount,
            F::ResponseCount,
            F::ThoughtsCount,
        ]) {
            self.gemini()
        } else if self.states(&[F::TotalInput, F::TotalOutput]) {
            self.interactions()
        } else if self.states(&[
            F::CohereInput,
            F::CohereOutput,
            F::BilledInput,
            F::BilledOutput,
        ]) {
            self.cohere()
        } else if self.states(&[F::Prompt, F::Completion]) {
            self.openai(cached)
        } else if self.states(&[
            F::CacheRead,
            F::CacheCreation,
            F::IterationInput,
            F::IterationOutput,
        ]) || dialect == Dialect::Anthropic && self.states(&[F::Input, F::Output])
        {
            self.anthropic()
        } else if self.states(&[F::Input, F::Output]) {
            self.openai(cached)
        } else if self.states(&[F::PromptEval, F::Eval]) {
            Sums {
                input: self.wide(F::PromptEval),
                output: self.wide(F::Eval),
                ..Sums::default()
            }
        } else {
            Sums {
                input: self.wide(F::Vertex),
                ..Sums::default()
            }
        }
    }

    fn wide(&self, field: Field) -> Option<u64> {
        self.of(field).map(u64::from)
    }

    fn openai(&self, cached: Option<u32>) -> Sums {
        use Field as F;
        let input = self.wide(F::Prompt).or(self.wide(F::Input));
        let output = self.wide(F::Completion).or(self.wide(F::Output));
        let total = self.wide(F::Total);
        let reasoning = self.wide(F::Reasoning);
        let cache_read = self
            .wide(F::Cached)
            .or(self.wide(F::CacheHit))
            .or(self.wide(F::CachedFlat))
            .or(cached.map(u64::from));
        // xAI leaves reasoning out of the completion; its total shows it.
        let whole = output
            .or(reasoning.and(Some(0)))
            .zip(reasoning)
            .map(|(part, more)| part + more);
        let apart =
            reasoning > Some(0) && total.is_some() && total == whole.zip(input).map(|(o, i)| o + i);
        Sums {
            input,
            cache_read,
            cache_write: self.wide(F::CacheWrite),
            output: if apart { whole } else { output },
            reasoning,
            total,
        }
    }

    fn anthropic(&self) -> Sums {
        use Field as F;
        // Iterations, when listed, are all of the work; the usage around them
        // is only the last one's.
        let of = |sum, one| self.wide(sum).or(self.wide(one));
        let cache_read = of(F::IterationCacheRead, F::CacheRead);
        let cache_write = of(F::IterationCacheCreation, F::CacheCreation);
        let fresh = of(F::IterationInput, F::Input);
        Sums {
            input: sum(&[fresh, cache_read, cache_write]),
            cache_read,
            cache_write,
            output: of(F::IterationOutput, F::Output),
            reasoning: self.wide(F::Thinking),
            total: None,
        }
    }

    fn gemini(&self) -> Sums {
        use Field as F;
        let input = sum(&[self.wide(F::PromptCount), self.wide(F::ToolCount)]);
        let answer = self
            .wide(F::CandidatesCount)
            .or(self.wide(F::ResponseCount))
            .unwrap_or(0);
        let thoughts = self.wide(F::ThoughtsCount);
        let total = self.wide(F::TotalCount);
        // Candidates exclude thoughts, but on some models of Vertex AI
        // include them; the total shows it.
        let inclusive = total == Some(input.unwrap_or(0) + answer);
        let output = if inclusive {
            answer
        } else {
            answer + thoughts.unwrap_or(0)
        };
        Sums {
            input,
            cache_read: self.wide(F::CachedCount),
            cache_write: None,
            output: Some(output),
            reasoning: thoughts,
            total,
        }
    }

    fn interactions(&self) -> Sums {
        use Field as F;
        Sums {
            input: sum(&[self.wide(F::TotalInput), self.wide(F::TotalTool)]),
            cache_read: self.wide(F::TotalCached),
            cache_write: None,
            output: sum(&[self.wide(F::TotalOutput), self.wide(F::TotalThought)]),
            reasoning: self.wide(F::TotalThought),
            total: self.wide(F::Total),
        }
    }

    fn cohere(&self) -> Sums {
        use Field as F;
        let seen = self.states(&[F::CohereInput, F::CohereOutput]);
        let (input, output) = match seen {
            true => (F::CohereInput, F::CohereOutput),
            false => (F::BilledInput, F::BilledOutput),
        };
        Sums {
            input: self.wide(input),
            cache_read: self.wide(F::CachedFlat),
            output: self.wide(output),
            ..Sums::default()
        }
    }
}

/// What a usage comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) counts: Counts,
    /// The provider contradicts itself.
    pub(super) inconsistent: bool,
}

/// Counts before they are known to make sense.
#[derive(Default)]
struct Sums {
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    output: Option<u64>,
    reasoning: Option<u64>,
    /// The provider's own total.
    total: Option<u64>,
}

/// The sum of those that were stated; absent if none was.
fn sum(parts: &[Option<u64>]) -> Option<u64> {
    parts
        .iter()
        .flatten()
        .copied()
        .reduce(|sum, part| sum + part)
}
