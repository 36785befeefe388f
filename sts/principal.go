package sts

// Principal is who makes an administrative call, as far as it was authenticated.
// It is for records: what the principal may do was decided before.
type Principal struct {
	Name   string `json:"name"`             // of the admin, such as the sub of a token; empty: nobody, as for what the server does by itself
	Method string `json:"method,omitempty"` // by which it authenticated
	Token  string `json:"token,omitempty"`  // jti of its token, if it used one of ours
	Peer   string `json:"peer,omitempty"`   // network address, without port
}

// bound cuts what is too long.
func (p *Principal) bound() {
	p.Name, p.Method, p.Token, p.Peer = cut(p.Name, maxText), cut(p.Method, maxText), cut(p.Token, maxJTI), cut(p.Peer, maxText)
}
