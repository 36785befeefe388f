package sts

// Principal is who makes an administrative call, as far as it was authenticated.
// It is for records: what the principal may do was decided before.
type Principal struct {
	Name   string `json:"name"`             // of the admin, such as the sub of a token; empty: nobody, as for what the server does by itself
	Method string `json:"method,omitempty"` // by which it authenticated
	Peer   string `json:"peer,omitempty"`   // network address, without port
}
