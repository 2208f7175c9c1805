"""Ultrasound phantoms: a federation of simulated institutions with known truth."""

from ufm_jax.data.phantom.generate import Phantom as Phantom
from ufm_jax.data.phantom.generate import phantom as phantom
from ufm_jax.data.phantom.lesion import LABEL_NAMES as LABEL_NAMES
from ufm_jax.data.phantom.site import SiteStyle as SiteStyle
from ufm_jax.data.phantom.site import site_sizes as site_sizes
from ufm_jax.data.phantom.site import site_style as site_style
