//! The gradient against finite differences; learning on a graph whose labels only neighbours tell.

use super::*;
use crate::features::Features;
use crate::sampler::{GraphView, Sampler};
use crate::{debian, powerlaw};

const SHAPE: Shape = Shape { dim: 12, hidden: 7, classes: 32 };

/// A minibatch of a small generated graph with its rows and labels.
fn minibatch(seeds: &[u32], shape: Shape) -> (Minibatch, Vec<f32>, Vec<u16>) {
    let graph = powerlaw::generate(1_000, 1).unwrap();
    let view = GraphView { xadj: graph.adjacency.xadj(), adjncy: graph.adjacency.adjncy() };
    let mut batch = Minibatch::default();
    Sampler::new(view).sample(seeds, Rng::new(&[4]), &mut batch);
    let features = Features::new(&graph.origin, shape.dim);
    let mut rows = vec![0.0; batch.inputs.len() * shape.dim];
    for (&input, row) in batch.inputs.iter().zip(rows.chunks_exact_mut(shape.dim)) {
        features.fill(input as u32, row);
    }
    (batch, rows, seeds.iter().map(|&seed| graph.labels[seed as usize]).collect())
}

#[test]
fn gradient_equals_finite_differences() {
    let (batch, rows, labels) = minibatch(&[3, 500, 999, 42, 700], SHAPE);
    let mut model = Sage::new(SHAPE);
    let mut parameters = SHAPE.initial(Rng::new(&[8]));
    // Biases away from 0 too, and hidden units on both sides of the kink.
    let mut rng = Rng::new(&[5]);
    parameters.iter_mut().for_each(|x| *x += (rng.unit() as f32 - 0.5) * 0.2);
    let mut gradient = vec![f32::NAN; SHAPE.len()];
    model.forward(&parameters, &batch, &rows, &labels);
    model.backward(&parameters, &batch, &rows, &mut gradient);

    let mut checked = 0;
    for index in 0..SHAPE.len() {
        let mut loss_at = |delta: f32| {
            let mut moved = parameters.clone();
            moved[index] += delta;
            model.forward(&moved, &batch, &rows, &labels).loss
        };
        // Two step sizes: where they disagree, a unit crossed the kink of ReLU and no difference is to be had.
        let coarse = (loss_at(4e-3) - loss_at(-4e-3)) / 8e-3;
        let fine = (loss_at(2e-3) - loss_at(-2e-3)) / 4e-3;
        let tolerance = 2e-3 + 5e-3 * fine.abs();
        if (coarse - fine).abs() > tolerance {
            continue;
        }
        checked += 1;
        let error = (f64::from(gradient[index]) - fine).abs();
        assert!(error < 2.0 * tolerance, "parameter {index}: by hand {} by difference {fine}", gradient[index]);
    }
    assert!(checked * 10 > SHAPE.len() * 9, "only {checked} of {} could be checked", SHAPE.len());
    assert!(gradient.iter().filter(|slope| slope.abs() > 0.05).count() > SHAPE.len() / 4, "the check must see slopes");
}

#[test]
fn seeds_without_neighbours_are_classified_by_their_own_row() {
    let (xadj, rows) = (vec![0; 3], vec![0.5; 2 * SHAPE.dim]);
    let mut batch = Minibatch::default();
    Sampler::new(GraphView { xadj: &xadj, adjncy: &[] }).sample(&[0, 1], Rng::new(&[1]), &mut batch);
    let mut model = Sage::new(SHAPE);
    let parameters = SHAPE.initial(Rng::new(&[8]));
    let outcome = model.forward(&parameters, &batch, &rows, &[1, 2]);
    let mut gradient = vec![f32::NAN; SHAPE.len()];
    model.backward(&parameters, &batch, &rows, &mut gradient);
    assert!(outcome.loss.is_finite() && gradient.iter().all(|slope| slope.is_finite()));
}

#[test]
fn softmax_survives_large_logits_and_counts_ties_once() {
    let mut logits = [1_000.0, 0.0, -1_000.0];
    let outcome = softmax_cross_entropy(&mut logits, 1);
    assert!((outcome.loss - 1_000.0).abs() < 1e-3 && outcome.correct == 0);
    assert_eq!(softmax_cross_entropy(&mut [0.0; 4], 0).correct, 1);
    assert_eq!(softmax_cross_entropy(&mut [0.0; 4], 3).correct, 0);
}

/// Trains on the Debian graph without any daemon: the model must learn what the demo promises.
#[test]
fn learns_the_sections_of_packages() {
    let graph = debian::load().unwrap();
    let shape = Shape { dim: 64, hidden: HIDDEN, classes: usize::from(graph.classes) };
    let features = Features::new(&graph.origin, shape.dim);
    let view = GraphView { xadj: graph.adjacency.xadj(), adjncy: graph.adjacency.adjncy() };
    let (mut sampler, mut batch) = (Sampler::new(view), Minibatch::default());
    let (mut model, mut parameters) = (Sage::new(shape), shape.initial(Rng::new(&[1])));
    let (mut adam, mut gradient) = (Adam::new(shape.len(), 0.01), vec![0.0; shape.len()]);
    let mut order: Vec<u32> = (0..graph.adjacency.vertices() as u32).collect();
    Rng::new(&[2]).shuffle(&mut order);
    let mut correct = 0;
    for (step, seeds) in order.chunks(64).take(60).enumerate() {
        sampler.sample(seeds, Rng::new(&[3, step as u64]), &mut batch);
        let mut rows = vec![0.0; batch.inputs.len() * shape.dim];
        for (&input, row) in batch.inputs.iter().zip(rows.chunks_exact_mut(shape.dim)) {
            features.fill(input as u32, row);
        }
        let labels: Vec<u16> = seeds.iter().map(|&seed| graph.labels[seed as usize]).collect();
        let outcome = model.forward(&parameters, &batch, &rows, &labels);
        if step >= 50 {
            correct += outcome.correct; // seeds not seen before: `order` repeats none
            continue;
        }
        model.backward(&parameters, &batch, &rows, &mut gradient);
        gradient.iter_mut().for_each(|slope| *slope /= seeds.len() as f32);
        adam.step(&mut parameters, &gradient);
    }
    let accuracy = correct as f64 / 640.0;
    assert!(accuracy > 3.0 * graph.largest_class_share(), "{accuracy} after 50 steps");
}
