package sts

import "context"

// Renew does what Run does once a minute for registered clients.
func (s *Service) Renew(ctx context.Context) { s.renewRegistrations(ctx) }
