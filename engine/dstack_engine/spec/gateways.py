"""Gateways: the door through which requests from outside reach services."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dstack_engine.spec.profiles import BackendName
from dstack_engine.spec.scalars import Boolean, SpecModel, Text


class LetsEncryptCertificate(SpecModel):
    """A certificate from Let's Encrypt."""

    type: Literal["lets-encrypt"] = Field(default="lets-encrypt", description="`lets-encrypt`.")


class AcmCertificate(SpecModel):
    """A certificate from AWS Certificate Manager."""

    type: Literal["acm"] = Field(description="`acm`.")
    arn: Text = Field(description="The certificate's ARN.")


Certificate = Annotated[LetsEncryptCertificate | AcmCertificate, Field(discriminator="type")]


class GatewayConfiguration(SpecModel):
    """A door for services."""

    type: Literal["gateway"] = Field(description="`gateway`.")
    name: Text | None = Field(default=None, description="Name of the gateway.")
    default: Boolean = Field(
        default=False, description="Whether services use it that name no gateway."
    )
    backend: BackendName = Field(description="Backend where the gateway's machine is rented.")
    region: Text = Field(description="Region where the gateway's machine is rented.")
    domain: Text | None = Field(
        default=None, description="Domain under which services are reached."
    )
    public_ip: Boolean = Field(
        default=True, description="Whether the gateway has a public address."
    )
    certificate: Certificate | None = Field(
        default=LetsEncryptCertificate(),
        description="Where the certificate comes from; none if null.",
    )
