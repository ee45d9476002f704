"""The networks, each a function that returns a Keras model; images are floats in [0, 1].

Preset `book` is Chollet, *Deep Learning with Python*, 2nd ed.: the VAE of listings 12.24 and 12.25 and the
GAN of listings 12.32 and 12.33. They are written for any size that their strides divide; at the book's own
sizes (28x28x1, 2 latents; 64x64x3, 128 latents) they are the book's to the parameter.

The other presets are ours. They normalize each image by itself (group normalization, Wu & He 2018), never
over the batch, so that training does not depend on how many replicas share a batch.
"""

from __future__ import annotations

import keras
from keras import layers

from components.train.convolution import Conv2D
from components.train.noise import Dropout

ImageShape = tuple[int, int, int]

DROPOUT = 0.2  # in the discriminators; the book's


def build(model: str, preset: str, image_shape: ImageShape, latent_dim: int) -> dict[str, keras.Model]:
    """Builds the networks of a model.

    Args:
        model: "vae" or "gan".
        preset: a name in `config.PRESETS`.
        image_shape: (height, width, channels), sides multiples of `config.SIDE_MULTIPLES`.
        latent_dim: dimensions of the latent space.

    Returns:
        "encoder" and "decoder" of a VAE, or "generator" and "discriminator" of a GAN.
    """
    if model == "vae":
        encoder, decoder = {
            "book": (book_encoder, book_decoder),
            "small": (small_encoder, small_decoder),
            "faces": (faces_encoder, faces_decoder),
        }[preset]
        return {"encoder": encoder(image_shape, latent_dim), "decoder": decoder(image_shape, latent_dim)}
    generator, discriminator = {
        "book": (book_generator, book_discriminator),
        "small": (small_generator, small_discriminator),
    }[preset]
    return {"generator": generator(image_shape, latent_dim), "discriminator": discriminator(image_shape)}


def portable(network: keras.Model) -> keras.Model:
    """Returns a copy in Keras' own layers, which can be saved and loaded without this package.

    Our layers compute what those of Keras' with the same names do.
    """
    copy = keras.models.clone_model(
        network,
        clone_function=lambda layer: getattr(keras.layers, type(layer).__name__).from_config(
            layer.get_config()
        ),
    )
    copy.set_weights(network.get_weights())
    return copy


def book_encoder(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """The book's VAE encoder, listing 12.24: images to (z_mean, z_log_var), each [N, latent_dim]."""
    images = keras.Input(image_shape)
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(images)
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(16, activation="relu")(x)
    return keras.Model(images, _posterior(x, latent_dim), name="encoder")


def book_decoder(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """The book's VAE decoder, listing 12.25: latents [N, latent_dim] to images."""
    height, width, channels = image_shape
    latents = keras.Input((latent_dim,))
    x = layers.Dense(height // 4 * (width // 4) * 64, activation="relu")(latents)
    x = layers.Reshape((height // 4, width // 4, 64))(x)
    x = layers.Conv2DTranspose(64, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(latents, _pixels(x, channels, 3), name="decoder")


def book_discriminator(image_shape: ImageShape) -> keras.Model:
    """The book's discriminator, listing 12.32: images to the probability [N, 1] of being generated."""
    images = keras.Input(image_shape)
    x = images
    for filters in (64, 128, 128):
        x = layers.Conv2D(filters, 4, strides=2, padding="same")(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(images, _probability(x), name="discriminator")


def book_generator(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """The book's generator, listing 12.33: latents [N, latent_dim] to images."""
    height, width, channels = image_shape
    latents = keras.Input((latent_dim,))
    x = layers.Dense(height // 8 * (width // 8) * 128)(latents)
    x = layers.Reshape((height // 8, width // 8, 128))(x)
    for filters in (128, 256, 512):
        x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same")(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(latents, _pixels(x, channels, 5), name="generator")


def small_encoder(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """An encoder with three strided convolutions, for faces of about 32x32."""
    return _encoder(image_shape, latent_dim, (32, 64, 128))


def small_decoder(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """The mirror image of `small_encoder`."""
    return _decoder(image_shape, latent_dim, (128, 64, 32))


def faces_encoder(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """An encoder with four strided convolutions, for faces of 64x64 and more."""
    return _encoder(image_shape, latent_dim, (64, 128, 256, 256))


def faces_decoder(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """The mirror image of `faces_encoder`."""
    return _decoder(image_shape, latent_dim, (256, 256, 128, 64))


def small_discriminator(image_shape: ImageShape) -> keras.Model:
    """The book's discriminator with two strided convolutions instead of three, for about 32x32."""
    images = keras.Input(image_shape)
    x = layers.Conv2D(32, 4, strides=2, padding="same")(images)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.Conv2D(64, 4, strides=2, padding="same")(x)
    x = layers.RMSNormalization()(x)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(images, _probability(x), name="discriminator")


def small_generator(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """The book's generator with two transposed convolutions instead of three, normalized."""
    height, width, channels = image_shape
    latents = keras.Input((latent_dim,))
    x = layers.Dense(height // 4 * (width // 4) * 64)(latents)
    x = layers.Reshape((height // 4, width // 4, 64))(x)
    for filters in (64, 32):
        x = layers.RMSNormalization()(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
        x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same")(x)
    x = layers.RMSNormalization()(x)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(latents, _pixels(x, channels, 5), name="generator")


def _encoder(image_shape: ImageShape, latent_dim: int, filters: tuple[int, ...]) -> keras.Model:
    images = keras.Input(image_shape)
    x = images
    for count in filters:
        x = layers.Conv2D(count, 4, strides=2, padding="same")(x)
        x = layers.RMSNormalization()(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(images, _posterior(layers.Flatten()(x), latent_dim), name="encoder")


def _decoder(image_shape: ImageShape, latent_dim: int, filters: tuple[int, ...]) -> keras.Model:
    height, width, channels = image_shape
    scale = 2 ** len(filters)
    latents = keras.Input((latent_dim,))
    x = layers.Dense(height // scale * (width // scale) * filters[0])(latents)
    x = layers.Reshape((height // scale, width // scale, filters[0]))(x)
    for count in filters:
        x = layers.Conv2DTranspose(count, 4, strides=2, padding="same")(x)
        x = layers.RMSNormalization()(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(latents, _pixels(x, channels, 3), name="decoder")


def _posterior(x: keras.KerasTensor, latent_dim: int) -> list[keras.KerasTensor]:
    # float32 whatever the precision: the KL term takes the exponential of z_log_var
    return [
        layers.Dense(latent_dim, name=name, dtype=keras.config.floatx())(x)
        for name in ("z_mean", "z_log_var")
    ]


def _pixels(x: keras.KerasTensor, channels: int, kernel_size: int) -> keras.KerasTensor:
    x = Conv2D(channels, kernel_size, padding="same")(x)
    return layers.Activation("sigmoid", dtype=keras.config.floatx())(x)


def _probability(x: keras.KerasTensor) -> keras.KerasTensor:
    x = Dropout(DROPOUT)(layers.Flatten()(x))
    return layers.Dense(1, activation="sigmoid", dtype=keras.config.floatx())(x)
