package main

import (
	"net/url"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// nonceKeyName names the key of nonces, which the nodes of a store share.
const nonceKeyName = "dpop-nonce"

func (k configCheck) dpop(c *stsv1.ServerConfig) {
	c.Dpop = orEmpty(c.Dpop)
	if c.Dpop.GrpcUrl == "" {
		c.Dpop.GrpcUrl = c.Issuer
		return
	}
	u, err := url.Parse(c.Dpop.GrpcUrl)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Scheme+"://"+u.Host != c.Dpop.GrpcUrl:
		k.report("dpop.grpc_url", "must be a URL of scheme and host alone, such as https://sts.example.com:8444, without path or trailing slash")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		k.report("dpop.grpc_url", "must be https; http is for loopback addresses only")
	case u.Scheme != "https" && u.Scheme != "http":
		k.report("dpop.grpc_url", "must be an https URL")
	}
}
