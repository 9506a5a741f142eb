// Package deploy holds no code: its tests build every manifest of deploy/, look at what it may do on a node, and have a
// real API server accept it.
package deploy
