//! Owns the model: two-layer GraphSAGE with mean aggregation (Hamilton et al. 2017), ReLU, softmax cross-entropy, its
//! gradient by hand, and Adam (Kingma, Ba 2015). Must never do I/O or keep time; the same inputs give the same bits.

use crate::gemm::{Matrix, multiply};
use crate::rng::Rng;
use crate::sampler::{Block, Minibatch};

/// Width of the hidden layer.
pub(crate) const HIDDEN: usize = 64;

/// Shape of a model. Its parameters are one flat vector, layer by layer: weights of the vertex itself, weights of its
/// neighbours' mean (each `inputs` × `outputs`, row-major), bias.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) dim: usize,
    pub(crate) hidden: usize,
    pub(crate) classes: usize,
}

/// Parameters of one layer, or their gradient.
struct Layer<'a> {
    own: &'a [f32],
    mean: &'a [f32],
    bias: &'a [f32],
}

impl Shape {
    /// Floats of one layer.
    const fn layer_len(inputs: usize, outputs: usize) -> usize {
        2 * inputs * outputs + outputs
    }

    /// Number of parameters.
    pub(crate) const fn len(self) -> usize {
        Self::layer_len(self.dim, self.hidden) + Self::layer_len(self.hidden, self.classes)
    }

    /// Initial parameters: Glorot's uniform distribution, biases 0.
    pub(crate) fn initial(self, mut rng: Rng) -> Vec<f32> {
        let mut parameters = Vec::with_capacity(self.len());
        for (inputs, outputs) in [(self.dim, self.hidden), (self.hidden, self.classes)] {
            let limit = (6.0 / (inputs + outputs) as f64).sqrt();
            parameters.extend((0..2 * inputs * outputs).map(|_| ((rng.unit() * 2.0 - 1.0) * limit) as f32));
            parameters.extend(std::iter::repeat_n(0.0, outputs));
        }
        parameters
    }

    fn layers(self, parameters: &[f32]) -> [Layer<'_>; 2] {
        let (first, second) = parameters.split_at(Self::layer_len(self.dim, self.hidden));
        let split = |layer, weights| {
            let (own, rest) = <[f32]>::split_at(layer, weights);
            let (mean, bias) = rest.split_at(weights);
            Layer { own, mean, bias }
        };
        [split(first, self.dim * self.hidden), split(second, self.hidden * self.classes)]
    }
}

/// What one minibatch did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Cross-entropy, summed over the seeds.
    pub(crate) loss: f64,
    /// Seeds whose largest logit is their label's.
    pub(crate) correct: u64,
}

/// A model's activations for one minibatch; buffers are reused.
pub(crate) struct Sage {
    shape: Shape,
    mean_inputs: Vec<f32>,
    hidden: Vec<f32>,
    mean_hidden: Vec<f32>,
    logits: Vec<f32>,
    hidden_gradient: Vec<f32>,
    mean_gradient: Vec<f32>,
}

impl Sage {
    pub(crate) fn new(shape: Shape) -> Self {
        let empty = Vec::new;
        Self {
            shape,
            mean_inputs: empty(),
            hidden: empty(),
            mean_hidden: empty(),
            logits: empty(),
            hidden_gradient: empty(),
            mean_gradient: empty(),
        }
    }

    /// Computes logits from `rows` (one row of `dim` floats per input of `batch`) and returns loss and hits. `logits`
    /// then holds the gradient of the summed loss by the logits.
    pub(crate) fn forward(&mut self, parameters: &[f32], batch: &Minibatch, rows: &[f32], labels: &[u16]) -> Outcome {
        let Shape { dim, hidden, classes } = self.shape;
        let [first, second] = self.shape.layers(parameters);
        mean(&batch.outer, rows, dim, &mut self.mean_inputs);
        affine(&first, rows, &self.mean_inputs, batch.outer.targets(), dim, hidden, &mut self.hidden);
        self.hidden.iter_mut().for_each(|x| *x = x.max(0.0));
        mean(&batch.inner, &self.hidden, hidden, &mut self.mean_hidden);
        affine(&second, &self.hidden, &self.mean_hidden, batch.inner.targets(), hidden, classes, &mut self.logits);
        self.logits.chunks_exact_mut(classes).zip(labels).fold(Outcome::default(), |sum, (logits, &label)| {
            let one = softmax_cross_entropy(logits, usize::from(label));
            Outcome { loss: sum.loss + one.loss, correct: sum.correct + one.correct }
        })
    }

    /// After [`Self::forward`] on the same arguments: writes the gradient of the summed loss over `gradient`.
    pub(crate) fn backward(&mut self, parameters: &[f32], batch: &Minibatch, rows: &[f32], gradient: &mut [f32]) {
        let Shape { dim, hidden, classes } = self.shape;
        let [_, second] = self.shape.layers(parameters);
        let (first_gradient, second_gradient) = gradient.split_at_mut(Shape::layer_len(dim, hidden));
        let (frontier, seeds) = (batch.outer.targets(), batch.inner.targets());
        weights_gradient(&self.hidden, &self.mean_hidden, &self.logits, seeds, hidden, classes, second_gradient);

        let by_logits = Matrix::new(&self.logits, seeds, classes);
        self.hidden_gradient.clear();
        self.hidden_gradient.resize(frontier * hidden, 0.0);
        multiply(by_logits, Matrix::new(second.own, hidden, classes).transposed(), 0.0, &mut self.hidden_gradient);
        self.mean_gradient.clear();
        self.mean_gradient.resize(seeds * hidden, 0.0);
        multiply(by_logits, Matrix::new(second.mean, hidden, classes).transposed(), 0.0, &mut self.mean_gradient);
        spread(&batch.inner, &self.mean_gradient, hidden, &mut self.hidden_gradient);
        for (slope, &value) in self.hidden_gradient.iter_mut().zip(&self.hidden) {
            if value <= 0.0 {
                *slope = 0.0;
            }
        }
        weights_gradient(rows, &self.mean_inputs, &self.hidden_gradient, frontier, dim, hidden, first_gradient);
    }
}

/// `out[t]` = mean of the rows of the sources of target `t`; zeros for a target without sources.
fn mean(block: &Block, rows: &[f32], width: usize, out: &mut Vec<f32>) {
    out.clear();
    out.resize(block.targets() * width, 0.0);
    for (target, sum) in out.chunks_exact_mut(width).enumerate() {
        let sources = block.sources(target);
        for &source in sources {
            let row = &rows[source as usize * width..][..width];
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        let scale = 1.0 / sources.len().max(1) as f32;
        sum.iter_mut().for_each(|x| *x *= scale);
    }
}

/// The transpose of [`mean`]: adds to each source its share of its targets' gradients.
fn spread(block: &Block, gradients: &[f32], width: usize, out: &mut [f32]) {
    for (target, gradient) in gradients.chunks_exact(width).enumerate() {
        let sources = block.sources(target);
        let scale = 1.0 / sources.len().max(1) as f32;
        for &source in sources {
            let row = &mut out[source as usize * width..][..width];
            row.iter_mut().zip(gradient).for_each(|(x, slope)| *x += slope * scale);
        }
    }
}

/// `out = own_rows · own + mean_rows · mean + bias` for the first `count` rows.
fn affine(
    layer: &Layer<'_>,
    own_rows: &[f32],
    mean_rows: &[f32],
    count: usize,
    inputs: usize,
    outputs: usize,
    out: &mut Vec<f32>,
) {
    out.clear();
    (0..count).for_each(|_| out.extend_from_slice(layer.bias));
    multiply(Matrix::new(own_rows, count, inputs), Matrix::new(layer.own, inputs, outputs), 1.0, out);
    multiply(Matrix::new(mean_rows, count, inputs), Matrix::new(layer.mean, inputs, outputs), 1.0, out);
}

/// The gradient of a layer's parameters from that of its outputs (`count` × `outputs`).
fn weights_gradient(
    own_rows: &[f32],
    mean_rows: &[f32],
    by_outputs: &[f32],
    count: usize,
    inputs: usize,
    outputs: usize,
    gradient: &mut [f32],
) {
    let (own, rest) = gradient.split_at_mut(inputs * outputs);
    let (mean, bias) = rest.split_at_mut(inputs * outputs);
    let by_outputs_matrix = Matrix::new(by_outputs, count, outputs);
    multiply(Matrix::new(own_rows, count, inputs).transposed(), by_outputs_matrix, 0.0, own);
    multiply(Matrix::new(mean_rows, count, inputs).transposed(), by_outputs_matrix, 0.0, mean);
    bias.fill(0.0);
    for row in by_outputs.chunks_exact(outputs).take(count) {
        bias.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
}

/// Replaces logits by the loss's gradient (probabilities, less one at the label).
fn softmax_cross_entropy(logits: &mut [f32], label: usize) -> Outcome {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // The first of equal logits counts as the answer, so that a constant model is not always right.
    let answer = logits.iter().position(|&x| x == largest);
    let at_label = logits[label] - largest;
    logits.iter_mut().for_each(|x| *x = (*x - largest).exp());
    let sum: f32 = logits.iter().sum();
    logits.iter_mut().for_each(|x| *x /= sum);
    logits[label] -= 1.0;
    Outcome { loss: f64::from(sum).ln() - f64::from(at_label), correct: u64::from(answer == Some(label)) }
}

/// Adam with its published constants.
pub(crate) struct Adam {
    rate: f32,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
}

impl Adam {
    /// For `len` parameters, with learning rate `rate`.
    pub(crate) fn new(len: usize, rate: f32) -> Self {
        Self { rate, first: vec![0.0; len], second: vec![0.0; len], steps: 0 }
    }

    /// One step down `gradient`.
    pub(crate) fn step(&mut self, parameters: &mut [f32], gradient: &[f32]) {
        const BETAS: [f32; 2] = [0.9, 0.999];
        self.steps += 1;
        let [first_scale, second_scale] = BETAS.map(|beta| 1.0 / (1.0 - beta.powi(self.steps)));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((parameter, &slope), (first, second)) in parameters.iter_mut().zip(gradient).zip(moments) {
            *first = BETAS[0] * *first + (1.0 - BETAS[0]) * slope;
            *second = BETAS[1] * *second + (1.0 - BETAS[1]) * slope * slope;
            *parameter -= self.rate * (*first * first_scale) / ((*second * second_scale).sqrt() + 1e-8);
        }
    }
}

#[cfg(test)]
#[path = "sage_tests.rs"]
mod tests;
